"""Takes one task through create, poll and, when it is interrupted, delete, as propeller does with docs/contract.md."""

from __future__ import annotations

import contextlib
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer  # not the built-in one before Python 3.11
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeVar

from ._errors import (
    BackendError,
    DataLoss,
    FlyteBackendError,
    NotFound,
    Retry,
    SystemError_,
    Unauthenticated,
    Unimplemented,
    UserError,
    seconds,
)
from ._local_progress import Progress
from ._local_sources import Offer
from ._plugin import JobState
from .client import JobView, _Pauses, _Requests

T = TypeVar("T")

# How long an interrupted run waits for the answer of a create, to delete the job that it started, in seconds.
LAST_ANSWER = 10.0
# What a service may ask for at most as a pause, in seconds; the contract's bound.
LONGEST_ASKED = 600.0


@dataclass(frozen=True)
class TaskCall:
    """A task's attempt as it is sent: messages in protobuf's JSON form."""

    task_type: str
    template: Mapping[str, Any]
    inputs: Mapping[str, Any]
    metadata: Mapping[str, Any]
    output_prefix: str

    def body(self) -> dict[str, Any]:
        return {
            "template": self.template,
            "inputs": self.inputs,
            "metadata": self.metadata,
            "output_prefix": self.output_prefix,
        }


class AttemptFailed(FlyteBackendError):
    """An attempt ended without success. ``is_users`` tells whose failure it is, ``retry`` whether another attempt is due."""

    def __init__(self, message: str, *, code: str = "", is_users: bool = False, retry: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.is_users = is_users
        self.retry = retry


@dataclass
class Ended:
    """A job that has ended. ``outputs`` is a LiteralMap, or None when the job has written them itself; ``error_code`` is empty
    when the service said nothing about a failure but its message."""

    state: JobState
    message: str = ""
    outputs: Mapping[str, Any] | None = None
    error_code: str = ""
    is_users: bool = True
    recoverable: bool = False
    links: dict[str, str] = field(default_factory=dict)
    poll_after: float = 0.0

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Ended:
        try:
            return cls(
                state=JobState(body["job_state"]),
                message=str(body.get("message") or ""),
                outputs=body.get("outputs"),
                error_code=str(body.get("error_code") or ""),
                is_users=body.get("error_kind") != "SYSTEM",
                recoverable=bool(body.get("recoverable")),
                links={str(link.get("name", "")): str(link.get("uri", "")) for link in body.get("log_links") or ()},
                poll_after=seconds(float(body.get("poll_after_seconds") or 0)),
            )
        except (KeyError, ValueError, TypeError, AttributeError) as e:
            raise SystemError_(f"the service's answer is no state of a job: {e}") from e

    def failure(self) -> AttemptFailed:
        """Why it failed, when it did."""
        retry = self.recoverable or self.state is JobState.RETRYABLE_FAILED
        message = self.message or f"the job ended as {self.state.value}, and its service gave no message"
        if self.state is JobState.ABORTED:
            message = f"the job was ended by somebody else: {self.message}".removesuffix(": ")
        return AttemptFailed(message, code=self.error_code, is_users=self.is_users, retry=retry)


def run(offer: Offer, call: TaskCall, progress: Progress) -> Ended:
    """Run one attempt to its end, whatever that is. It blocks.

    Raises :class:`AttemptFailed` when calls fail. When it is interrupted, by KeyboardInterrupt or SIGTERM, it deletes the job
    and ends.
    """
    headers = {"idempotency-key": secrets.token_hex(32)}
    path = _Requests.path(call.task_type, offer.plugin_version)
    patience = _Patience(offer.patience, progress)
    progress.show(JobState.QUEUED.value)
    with _sigterm_interrupts():
        if offer.is_sync:
            body = patience.with_call(
                lambda: offer.client._call("POST", path + "/execute", json=call.body(), headers=headers, timeout=None)
            )
            ended = Ended.of(body)
            progress.show(ended.state.value, ended.message, ended.links)
            return ended

        def create() -> str:
            return str(offer.client._call("PUT", path, json=call.body(), headers=headers).get("job_id", ""))

        def job(job_id: str) -> _Job:
            return _Job(offer, JobView(call.task_type, offer.plugin_version, job_id, call.output_prefix), progress)

        started = job(patience.with_call(lambda: _interruptible(create, lambda job_id: job(job_id).delete())))
        return started.follow()


class _Patience:
    """Makes calls again that may succeed later, for so long."""

    def __init__(self, limit: float, progress: Progress) -> None:
        self._limit = limit
        self._progress = progress

    def with_call(self, call: Callable[[], T]) -> T:
        """What a call that starts something gives."""
        began = time.monotonic()
        pauses = _Pauses(None)
        while True:
            try:
                return call()
            except (Unauthenticated, Unimplemented) as e:  # here is nobody who would set it right meanwhile
                raise AttemptFailed(str(e), code=e.reason or e.code.camel) from e
            except Retry as e:
                pause = min(pauses.after(e.after), LONGEST_ASKED)
                if time.monotonic() + pause - began > self._limit:
                    raise AttemptFailed(f"no success in {self._limit:g} s: {e}", code=e.code.camel, retry=True) from e
                self._progress.show("WAITING", str(e))
                time.sleep(pause)
            except BackendError as e:
                is_users = isinstance(e, UserError)
                raise AttemptFailed(str(e), code=e.reason or e.code.camel, is_users=is_users, retry=not is_users) from e


class _Job:
    """A job that is to be deleted if nobody follows it any more."""

    def __init__(self, offer: Offer, view: JobView, progress: Progress) -> None:
        self._offer = offer
        self._view = view
        self._progress = progress

    def follow(self) -> Ended:
        """Look at it until it has ended."""
        _followed[self] = threading.current_thread()
        try:
            return self._until_end()
        except BaseException:
            self.delete()
            raise
        finally:
            _followed.pop(self, None)

    def _until_end(self) -> Ended:
        pauses = _Pauses(None)
        outage: float | None = None
        method, path, more = _Requests.poll(self._view)
        while True:
            try:
                seen = Ended.of(_Requests.polled(self._offer.client._call(method, path, **more)))
            except (NotFound, DataLoss, UserError) as e:  # about this job, which will not come back
                raise AttemptFailed(str(e), code=e.reason or e.code.camel, retry=True) from e
            except BackendError as e:
                outage = outage or time.monotonic()
                if time.monotonic() - outage > self._offer.patience:
                    text = f"the job could not be looked at for {self._offer.patience:g} s: {e}"
                    raise AttemptFailed(text, code=e.code.camel, retry=True) from e
                self._progress.show("RUNNING", f"it cannot be looked at: {e}")
                asked = e.after
            else:
                outage = None
                self._progress.show(seen.state.value, seen.message, seen.links)
                if seen.state.is_final:
                    return seen
                asked = seen.poll_after
            time.sleep(min(pauses.after(asked), LONGEST_ASKED))

    def delete(self) -> None:
        """End it, and tell when that fails: then somebody has to see to it."""
        method, path, more = _Requests.delete(self._view)
        error: BackendError | None = None
        for pause in (1.0, 0.0):
            try:
                self._offer.client._call(method, path, **more)
            except BackendError as e:
                error = e
                time.sleep(pause)
            else:
                self._progress.note("the job was deleted")
                return
        self._progress.note(f"job {self._view.job_id[:200]} could not be deleted: {error}")


# Jobs that are followed, with the threads that do.
_followed: dict[_Job, threading.Thread] = {}


def delete_jobs_of_other_threads() -> None:
    """Before the main thread ends the process: no interrupt reaches the others, such as the one of an @eager workflow."""
    for job, thread in list(_followed.items()):
        if thread is not threading.current_thread():
            job.delete()


def _interruptible(create: Callable[[], str], undo: Callable[[str], None]) -> str:
    """What ``create`` gives. It runs in a thread, so that an interrupt does not lose the answer, and with it the job."""
    answer: Future[str] = Future()

    def work() -> None:
        try:
            answer.set_result(create())
        except BaseException as e:
            answer.set_exception(e)

    thread = threading.Thread(target=work, name="flyte-backend-create", daemon=True)
    try:
        thread.start()
        return answer.result()
    except Exception:
        raise
    except BaseException:
        with contextlib.suppress(BackendError, NoAnswer):
            undo(answer.result(LAST_ANSWER))
        raise


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM ends the process as an interrupt does, by an exception. A handler of somebody else's is left alone."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
