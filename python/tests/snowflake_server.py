"""A server that speaks Snowflake's SQL API over TLS on 127.0.0.1 and runs what it is given, on SQLite.

It keeps to what https://docs.snowflake.com/en/developer-guide/sql-api says: authentication, request ids, states, bind variables,
several statements, cancellation, codes. As a program (``python -m tests.snowflake_server`` in python/, or by its path) it prints
a line of JSON, with its URL, its CA and the environment that the plugin needs, and runs until its input ends or SIGTERM comes.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import sqlite3
import ssl
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

if not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.conftest import Authority

ACCOUNT, USER = "myorg-my_account", "flyte"
#: What there is, written as SHOW tells it.
DATABASES, SCHEMAS, WAREHOUSES = {"DB", "Mixed db"}, {"PUBLIC"}, {"WH"}
MAX_LIFETIME = 3600

Json = dict[str, Any]


@dataclass
class Answer:
    status: int
    body: Json | bytes = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    #: How long it takes to come, in seconds.
    after: float = 0.0


@dataclass
class Fault:
    """Goes wrong with calls: answers in the place of the API, or loses the API's answer on its way."""

    answer: Answer | None = None
    times: int = 1
    method: str = ""


@dataclass
class Statement:
    """A statement that was submitted, and how it is. ``parts`` are those of a request of several."""

    text: str
    body: Json
    handle: str = field(default_factory=lambda: str(uuid.uuid4()))
    done: threading.Event = field(default_factory=threading.Event)
    stop: threading.Event = field(default_factory=threading.Event)
    error: tuple[int, str, str, str] | None = None
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()
    parts: list[Statement] = field(default_factory=list)


class SnowflakeServer:
    """The server. ``statements`` are those that it ran, in their order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "snowflake-authority")
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.users: dict[str, rsa.RSAPublicKey] = {USER.upper(): self.key.public_key()}
        #: Tokens that are secrets themselves, by their kind.
        self.tokens: dict[str, set[str]] = {"OAUTH": set(), "PROGRAMMATIC_ACCESS_TOKEN": set()}
        self.statements: list[Statement] = []
        self.calls: list[tuple[str, str]] = []
        self.connections = 0
        #: Every Authorization header that came.
        self.presented: list[str] = []
        #: How long a statement takes at least, in seconds.
        self.delay = 0.0
        self.faults: list[Fault] = []
        self._by_handle: dict[str, Statement] = {}
        self._by_request: dict[str, Statement] = {}
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._http = _Http(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.authority.issue("snowflake"))
        # The handshake is the handler's, so that a caller that does not finish it holds nobody up.
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    # ---- for tests

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._http.server_address[1]}"

    def pem(self, key: rsa.RSAPrivateKey | None = None) -> str:
        return (key or self.key).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    def environment(self) -> dict[str, str]:
        """What the plugin needs to come here."""
        return {
            "FLYTE_SNOWFLAKE_HOST": self.host,
            "SSL_CERT_FILE": str(self.authority.ca),
            "_FSEC_SNOWFLAKE_PRIVATE_KEY": self.pem(),
        }

    def sql(self, text: str, *values: Any) -> list[Any]:
        """Run SQL at once, to prepare a test or to look what became of one."""
        with contextlib.closing(sqlite3.connect(self.folder / "data.sqlite", timeout=30)) as connection, connection:
            return connection.execute(text, values).fetchall()

    def fault(self, answer: Answer | None = None, *, times: int = 1, method: str = "") -> None:
        """The next calls (of a method) get this answer; without one they are done and their answer is lost."""
        with self._lock:
            self.faults.append(Fault(answer, times, method))

    def close(self) -> None:
        for statement in self.statements:
            statement.stop.set()
        self._http.shutdown()
        self._http.server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)

    # ---- calls

    def call(self, method: str, target: str, headers: Mapping[str, str], raw: bytes) -> Answer | None:
        """None loses the answer."""
        url = urlsplit(target)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        with self._lock:
            self.calls.append((method, target))
            self.presented.append(headers.get("Authorization", ""))
            fault = next((f for f in self.faults if f.times > 0 and f.method in ("", method)), None)
            if fault is not None:
                fault.times -= 1
        if fault is not None and fault.answer is not None:
            time.sleep(fault.answer.after)
            return fault.answer
        answer = self._refusal(headers) or self._route(method, url.path, query, raw)
        return None if fault is not None else answer

    def _refusal(self, headers: Mapping[str, str]) -> Answer | None:
        if not headers.get("User-Agent") or headers.get("Accept") != "application/json":
            return Answer(400, {"code": "391903", "message": "The request lacks a header."})
        token = headers.get("Authorization", "").removeprefix("Bearer ")
        kind = headers.get("X-Snowflake-Authorization-Token-Type", "OAUTH")
        if kind == "KEYPAIR_JWT":
            if (why := self._wrong_jwt(token)) is not None:
                return Answer(401, {"code": "390144", "message": f"JWT token is invalid. {why}"})
        elif token not in self.tokens.get(kind, ()):
            return Answer(401, {"code": "390303", "message": "Invalid OAuth access token."})
        return None

    def _wrong_jwt(self, token: str) -> str | None:
        try:
            claims = jwt.decode(token, options={"verify_signature": False})
            account, _, user = str(claims["sub"]).partition(".")
            key = self.users[user]
            needed: Any = {"require": ["iss", "sub", "iat", "exp"]}
            jwt.decode(token, key, algorithms=["RS256"], options=needed)
        except (jwt.InvalidTokenError, KeyError) as e:
            return type(e).__name__
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        fingerprint = "SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode()
        if account != ACCOUNT.upper() or claims["iss"] != f"{account}.{user}.{fingerprint}":
            return "the issuer is wrong"
        return "it lives too long" if claims["exp"] - claims["iat"] > MAX_LIFETIME else None

    def _route(self, method: str, path: str, query: Mapping[str, str], raw: bytes) -> Answer:
        place = re.fullmatch(r"/api/v2/statements(?:/([^/]+)(/cancel)?)?/?", path)
        if place is None:
            return Answer(404, {"code": "390404", "message": "Not found."})
        handle, cancel = place[1], bool(place[2])
        if handle is None:
            return self._submit(query, raw) if method == "POST" else Answer(405)
        if method != ("POST" if cancel else "GET"):
            return Answer(405)
        with self._lock:
            statement = self._by_handle.get(handle)
        if statement is None:
            return _failure(422, "000709", "02000", f"Statement {handle} not found", handle)
        return self._canceled(statement) if cancel else self._state(statement)

    def _submit(self, query: Mapping[str, str], raw: bytes) -> Answer:
        try:
            body = json.loads(raw)
            request = str(uuid.UUID(query["requestId"])) if "requestId" in query else str(uuid.uuid4())
            text = body["statement"]
        except (ValueError, KeyError, TypeError):
            return Answer(400, {"code": "390142", "message": "Incoming request does not contain a valid payload."})
        with self._lock:
            before = self._by_request.get(request)
            # Only a repetition that says so is one, and only of what went well or is on its way.
            if before is not None and query.get("retry") == "true" and before.error is None:
                statement = before
            else:
                statement = Statement(text, body)
                self._by_request[request] = self._by_handle[statement.handle] = statement
                self.statements.append(statement)
                threading.Thread(target=self._run, args=(statement,), daemon=True).start()
        if query.get("async") != "true":
            statement.done.wait(45)
        return self._state(statement, is_new=statement is not before and query.get("async") == "true")

    def _state(self, statement: Statement, *, is_new: bool = False) -> Answer:
        url = {"statementHandle": statement.handle, "statementStatusUrl": f"/api/v2/statements/{statement.handle}"}
        if is_new or not statement.done.is_set():
            return Answer(202, {"code": "333334", "message": "Asynchronous execution in progress.", **url})
        if statement.error is not None:
            status, code, state, message = statement.error
            return _failure(status, code, state, message, statement.handle)
        data = [[None if value is None else str(value) for value in row] for row in statement.rows]
        about = {"numRows": len(data), "format": "jsonv2", "rowType": [{"name": name} for name in statement.columns]}
        done: Json = {"code": "090001", "sqlState": "00000", "message": "Statement executed successfully.", **url}
        if statement.parts:
            done["statementHandles"] = [part.handle for part in statement.parts]
        return Answer(200, {"resultSetMetaData": about, "data": data, **done})

    def _canceled(self, statement: Statement) -> Answer:
        if statement.done.is_set():
            return _failure(422, "000605", "02000", "Identified SQL statement is not currently executing.", statement.handle)
        statement.stop.set()
        statement.done.wait(10)
        return _failure(200, "000604", "57014", "SQL execution canceled", statement.handle)

    # ---- SQL

    def _run(self, statement: Statement) -> None:
        limit = statement.body.get("timeout")
        late = threading.Event()

        def end() -> None:
            late.set()
            statement.stop.set()

        timer = threading.Timer(float(limit), end) if limit else None
        if timer is not None:
            timer.start()
        began = time.monotonic()
        try:
            self._execute(statement)
            statement.stop.wait(max(0.0, self.delay - (time.monotonic() - began)))
        except _Wrong as e:
            statement.error = e.error
        except sqlite3.Error as e:
            statement.error = (422, "001003", "42000", f"SQL compilation error: {e}")
        finally:
            if timer is not None:
                timer.cancel()
        if statement.stop.is_set():
            statement.error = (422, "000604", "57014", "SQL execution canceled")
            if late.is_set():
                told = f"Statement reached its statement or warehouse timeout of {limit} second(s) and was canceled."
                statement.error = (408, "000630", "57014", told)
        statement.done.set()

    def _execute(self, statement: Statement) -> None:
        body = statement.body
        for name, there in (("database", DATABASES), ("schema", SCHEMAS), ("warehouse", WAREHOUSES)):
            if body.get(name) and body[name] not in there:
                raise _Wrong("002043", "02000", f"SQL compilation error: object {body[name]!r} does not exist")
        texts = _split(statement.text)
        count = int(body.get("parameters", {}).get("MULTI_STATEMENT_COUNT", "1"))
        if count not in (0, len(texts)):
            told = f"Actual statement count {len(texts)} did not match the desired statement count {count}."
            raise _Wrong("000008", "0A000", told)
        bindings = body.get("bindings", {})
        if len(texts) > 1 and bindings:
            raise _Wrong("000009", "0A000", "Bind variables are not supported in several statements.")
        values = [_bound(bindings[str(i + 1)]) for i in range(len(bindings))]
        connection = sqlite3.connect(self.folder / "data.sqlite", timeout=30)
        with contextlib.closing(connection), connection:
            connection.set_progress_handler(statement.stop.is_set, 10_000)  # which ends it
            _add_functions(connection, statement)
            for text in texts:
                cursor = connection.execute(text, values)
                statement.columns = [column[0].upper() for column in cursor.description or ()]
                statement.rows = cursor.fetchall()
                if len(texts) > 1:
                    part = Statement(text, body, columns=statement.columns, rows=statement.rows)
                    part.done.set()
                    statement.parts.append(part)
                    with self._lock:
                        self._by_handle[part.handle] = part
            if statement.parts:
                statement.rows = [("Multiple statements executed successfully.",)]


class _Wrong(Exception):
    def __init__(self, code: str, state: str, message: str) -> None:
        super().__init__(message)
        self.error = (422, code, state, message)


def _failure(status: int, code: str, state: str, message: str, handle: str) -> Answer:
    return Answer(status, {"code": code, "sqlState": state, "message": message, "statementHandle": handle})


def _split(text: str) -> list[str]:
    texts, rest = [], ""
    for piece in re.split(r"(?<=;)", text):
        rest += piece
        if sqlite3.complete_statement(rest):
            texts.append(rest)
            rest = ""
    return [*texts, *([rest] if rest.strip() else [])]


def _bound(binding: Json) -> Any:
    kind, value = binding["type"], binding["value"]
    wrong = _Wrong("100037", "22018", f"{kind} value {value!r} is not recognized")
    if not isinstance(value, str):  # they are text, whatever their type is
        raise wrong
    readers: dict[str, Callable[[str], Any]] = {
        "FIXED": int,
        "REAL": float,
        "TEXT": str,
        "BINARY": bytes.fromhex,
        "BOOLEAN": {"true": 1, "false": 0}.__getitem__,
        "TIME": lambda nanos: time.strftime("%H:%M:%S", time.gmtime(int(nanos) // 10**9)) + f".{int(nanos) % 10**9:09d}",
    }
    try:
        return readers[kind](value)
    except (ValueError, KeyError):
        raise wrong from None


def _add_functions(connection: sqlite3.Connection, statement: Statement) -> None:
    def wait(seconds: float) -> str:
        if statement.stop.wait(seconds):
            raise InterruptedError
        return "waited"

    def fail(code: str, state: str, message: str) -> None:
        statement.error = (422, code, state, message)

    connection.create_function("SYSTEM$WAIT", 1, wait)
    connection.create_function("FAIL_WITH", 3, fail)
    connection.create_function("PARSE_JSON", 1, lambda text: json.dumps(json.loads(text)))
    for name in ("warehouse", "database", "schema", "role"):
        value = statement.body.get(name)
        connection.create_function(f"CURRENT_{name.upper()}", 0, lambda value=value: value)


# ---- HTTP


class _Http(ThreadingHTTPServer):
    owner: SnowflakeServer
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hangs up is none of the server's errors; anything else is."""
        if not isinstance(sys.exc_info()[1], (OSError, ssl.SSLError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        owner = self.server.owner
        owner._open.add(self.connection)
        with owner._lock:
            owner.connections += 1

    def finish(self) -> None:
        self.server.owner._open.discard(self.connection)
        super().finish()

    def _serve(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        answer = self.server.owner.call(self.command, self.path, dict(self.headers.items()), raw)
        if answer is None:
            self.close_connection = True
            return
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = _serve

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def running() -> Iterator[SnowflakeServer]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server = SnowflakeServer(Path(folder))
        try:
            yield server
        finally:
            server.close()


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: os.close(0))
    with running() as server:
        about = {"account": ACCOUNT, "user": USER, "database": "db", "schema": "public", "warehouse": "wh"}
        line = {"url": f"https://{server.host}", "ca": str(server.authority.ca), "env": server.environment(), "config": about}
        print(json.dumps(line), flush=True)
        with contextlib.suppress(OSError):  # closed by the signal
            while os.read(0, 4096):
                pass


if __name__ == "__main__":
    main()
