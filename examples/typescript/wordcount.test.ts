// The service as a process of its own, over HTTP on 127.0.0.1.
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

const dir = mkdtempSync(join(tmpdir(), "wordcount-"));
let service: ChildProcess;
let base: string;

async function start(): Promise<[ChildProcess, string]> {
  const program = join(import.meta.dirname, "wordcount.js");
  const env = { ...process.env, PORT: "0", JOBS_DIR: dir, DRAIN_SECONDS: "3" };
  const child = spawn(process.execPath, [program], { env, stdio: ["ignore", "pipe", "inherit"] });
  let said = "";
  for await (const chunk of child.stdout) {
    const port = /port: (\d+)/.exec((said += String(chunk)))?.[1];
    if (port !== undefined) return [child, `http://127.0.0.1:${port}`];
  }
  throw new Error("the service ended before it served");
}
before(async () => {
  [service, base] = await start();
});
after(() => {
  service.kill("SIGKILL");
  rmSync(dir, { recursive: true });
});

const jobs = "/plugins/v1/wordcount/v1";
const template = (custom: object = {}) => ({ type: "wordcount", custom });
const inputs = (text: string) => ({ literals: { text: { scalar: { primitive: { stringValue: text } } } } });

async function call(method: string, path: string, body?: unknown, headers: Record<string, string> = {}) {
  const raw = typeof body === "string" ? body : JSON.stringify(body);
  const init = body === undefined ? { method, headers } : { method, headers: { "content-type": "application/json", ...headers }, body: raw };
  const res = await fetch(base + path, init);
  return { status: res.status, headers: res.headers, body: (await res.json()) as any };
}
async function create(text: string, custom: object = {}, headers: Record<string, string> = {}): Promise<string> {
  const { status, body } = await call("PUT", jobs, { template: template(custom), inputs: inputs(text) }, headers);
  assert.equal(status, 200, JSON.stringify(body));
  return body.job_id as string;
}
async function poll(id: string) {
  return call("GET", `${jobs}?job_id=${id}`);
}
async function ended(id: string) {
  for (const deadline = Date.now() + 10_000; Date.now() < deadline; ) {
    const { body } = await poll(id);
    if (body.job_state !== "RUNNING") return body;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`job ${id} did not end`);
}

test("a job runs, shows how far it is, and gives its outputs", async () => {
  const id = await create("one two three four", { words_per_second: 2 });
  const { body } = await poll(id);
  assert.equal(body.job_state, "RUNNING");
  assert.match(body.message as string, /of 4 words/);
  const end = await ended(id);
  assert.equal(end.job_state, "SUCCEEDED");
  assert.deepEqual(end.outputs, { literals: { words: { scalar: { primitive: { integer: "4" } } } } });
});

test("a job fails by its author's fault", async () => {
  const end = await ended(await create(" "));
  assert.deepEqual([end.job_state, end.error_code, end.error_kind, end.recoverable], ["FAILED", "EmptyText", "USER", false]);
});

test("a create that is repeated gives the first job, and another one is refused", async () => {
  const key = { "idempotency-key": "k1" };
  const ids = await Promise.all(Array.from({ length: 8 }, () => create("a b", {}, key)));
  assert.equal(new Set(ids).size, 1);
  const { status, body } = await call("PUT", jobs, { template: template(), inputs: inputs("other") }, key);
  assert.deepEqual([status, body.error_code], [409, "ALREADY_EXISTS"]);
});

test("a deleted job is unknown, and may be deleted again", async () => {
  const id = await create("a b c", { words_per_second: 0.001 });
  for (let i = 0; i < 2; i++) assert.equal((await call("DELETE", `${jobs}?job_id=${id}`)).status, 200);
  assert.equal((await poll(id)).body.error_code, "NOT_FOUND");
  assert.equal((await call("POST", `${jobs}/delete`, { job_id: "never/there" })).status, 200);
});

test("many jobs are polled at once", async () => {
  const id = await create("a");
  await ended(id);
  const { body } = await call("POST", `${jobs}/poll`, { jobs: [{ job_id: id }, { job_id: "nobody's" }] });
  assert.equal(body.results[0].job.job_state, "SUCCEEDED");
  assert.deepEqual(body.results[1], { error: { status: 404, error_code: "NOT_FOUND", message: "there is no such job" } });
});

test("another replica, and one that was started again, know the job", async () => {
  const id = await create("a b c", { words_per_second: 0.001 });
  const [other, at] = await start();
  const res = await fetch(`${at}${jobs}?job_id=${id}`);
  assert.equal(((await res.json()) as any).job_state, "RUNNING");
  other.kill("SIGKILL");
});

test("what is wrong is refused", async () => {
  const good = { template: template(), inputs: inputs("a") };
  const large = "x".repeat((16 << 20) + 1);
  const table: [string, string, string, unknown, Record<string, string>, number, string][] = [
    ["no template", "PUT", jobs, {}, {}, 400, "INVALID_ARGUMENT"],
    ["a template of another type", "PUT", jobs, { ...good, template: { type: "x" } }, {}, 400, "INVALID_ARGUMENT"],
    ["no text", "PUT", jobs, { template: template() }, {}, 400, "INVALID_ARGUMENT"],
    ["an input that is no string", "PUT", jobs, { ...good, inputs: { literals: { text: { scalar: { primitive: { integer: "1" } } } } } }, {}, 400, "INVALID_ARGUMENT"],
    ["a pace of nothing", "PUT", jobs, { ...good, template: template({ words_per_second: 0 }) }, {}, 400, "INVALID_ARGUMENT"],
    ["half a character", "PUT", jobs, { ...good, inputs: inputs("\ud800") }, {}, 400, "INVALID_ARGUMENT"],
    ["no JSON", "PUT", jobs, "{", {}, 400, "INVALID_ARGUMENT"],
    ["a list", "PUT", jobs, [], {}, 400, "INVALID_ARGUMENT"],
    ["a key with a space", "PUT", jobs, good, { "idempotency-key": "a b" }, 400, "INVALID_ARGUMENT"],
    ["text", "PUT", jobs, good, { "content-type": "text/plain" }, 415, "INVALID_ARGUMENT"],
    ["too much", "PUT", jobs, large, {}, 413, "RESOURCE_EXHAUSTED"],
    ["another type", "PUT", "/plugins/v1/other/v1", good, {}, 404, "NOT_FOUND"],
    ["another version", "GET", "/plugins/v1/wordcount/v2?job_id=a", undefined, {}, 404, "NOT_FOUND"],
    ["no job", "GET", jobs, undefined, {}, 400, "INVALID_ARGUMENT"],
    ["a way out of the folder", "GET", `${jobs}?job_id=..%2Fpackage.json`, undefined, {}, 404, "NOT_FOUND"],
    ["a version that is no number", "GET", `${jobs}?job_id=a&task_type_version=x`, undefined, {}, 400, "INVALID_ARGUMENT"],
    ["no jobs to poll", "POST", `${jobs}/poll`, { jobs: [] }, {}, 400, "INVALID_ARGUMENT"],
    ["an ability that is not there", "POST", `${jobs}/logs`, { job_id: "a" }, {}, 501, "UNIMPLEMENTED"],
    ["a path that is not there", "GET", "/plugins/v2", undefined, {}, 404, "UNIMPLEMENTED"],
    ["a method that is not there", "POST", jobs, {}, {}, 405, "UNIMPLEMENTED"],
  ];
  for (const [reason, method, path, body, headers, status, code] of table) {
    const got = await call(method, path, body, headers);
    assert.deepEqual([got.status, got.body.error_code], [status, code], reason);
    assert.notEqual(got.body.message, "", reason);
    if (status === 405) assert.equal(got.headers.get("allow"), "PUT, GET, DELETE");
  }
});

test("it lists its plugin, and says how it is", async () => {
  const { plugins } = (await call("GET", "/plugins/v1")).body;
  assert.deepEqual([plugins.length, plugins[0].task_type, plugins[0].mode], [1, "wordcount", "async"]);
  assert.deepEqual((await call("GET", "/healthz")).body, { status: "up" });
  assert.deepEqual((await call("GET", "/readyz")).body, { status: "ready" });
});

test("on SIGTERM it says that it goes, still answers, and goes", async () => {
  const [going, at] = await start();
  const exit = once(going, "exit");
  going.kill("SIGTERM");
  for (let status = 200; status !== 503; status = (await fetch(`${at}/readyz`)).status);
  assert.equal((await fetch(`${at}/plugins/v1`)).status, 200);
  assert.deepEqual(await exit, [0, null]);
});
