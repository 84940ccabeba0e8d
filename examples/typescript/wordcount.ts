// A backend plugin service for Flyte, with Node's own http module and nothing else. It serves the task type "wordcount", which
// counts the words of the input `text`, as many a second as the task says. The contract is api/openapi.yaml.
import { createHash, randomUUID } from "node:crypto";
import { mkdirSync, promises as fs } from "node:fs";
import { createServer, type IncomingMessage } from "node:http";
const [taskType, version, maxBody, jobFile] = ["wordcount", "v1", 16 << 20, /^[0-9a-f]{64}$/];
const dir = process.env.JOBS_DIR ?? "jobs"; // stands in for what keeps real jobs: replicas share it, and the process keeps nothing
let draining = false;
type Fields = Record<string, unknown>;
type Job = { request: string; text: string; pace: number; started: number };
/** An error about a call: its HTTP status, and the code that decides what becomes of the task. */
class Failure extends Error {
  constructor(readonly status: number, readonly code: string, message: string, readonly headers = {}) { super(message); }
  get body() { return { error_code: this.code, message: this.message }; }
}
const notFound = (message: string) => new Failure(404, "NOT_FOUND", message);
const due = <T>(right: boolean, value: unknown, message: string): T => {
  if (right) return value as T;
  throw new Failure(400, "INVALID_ARGUMENT", message);
};
const isObject = (v: unknown) => typeof v === "object" && v !== null && !Array.isArray(v);
const object = (v: unknown, what: string) => due<Fields>(isObject(v), v, `${what} is not a JSON object`);
const text = (v: unknown, what: string) => due<string>(typeof v === "string" && v.isWellFormed(), v, `${what} is not a string`);
const unless = (code: string) => (e: NodeJS.ErrnoException) => (e.code === code ? undefined : Promise.reject(e));
const sha256 = (s: string) => createHash("sha256").update(s).digest("hex");
async function create(body: Fields, key: string): Promise<Fields> {
  const template = object(body.template, "template");
  due([undefined, null, "", taskType].includes(template.type as string), 0, `template.type is not ${taskType}`);
  let input = object(body.inputs ?? {}, "inputs");
  for (const name of ["literals", "text", "scalar", "primitive"]) input = object(input[name] ?? {}, `inputs: ${name}`);
  const words = text(input.stringValue ?? input.string_value, "inputs: text"); // protobuf's JSON has names of both kinds
  const rate = object(template.custom ?? {}, "template.custom").words_per_second ?? 100;
  const pace = due<number>(typeof rate === "number" && rate > 0, rate, "template.custom: words_per_second is not a number over 0");
  const job: Job = { request: sha256(JSON.stringify([template, body.inputs])), text: words, pace, started: Date.now() };
  const [id, draft] = [sha256(key), `${dir}/draft-${randomUUID()}`];
  await fs.writeFile(draft, JSON.stringify(job));
  await fs.link(draft, `${dir}/${id}`).catch(unless("EEXIST")).finally(() => fs.rm(draft)); // a job that is there stays
  if ((await find(id)).request === job.request) return { job_id: id, error_code: "", message: "" };
  throw new Failure(409, "ALREADY_EXISTS", "the idempotency key was used for another request");
}
async function find(id: string): Promise<Job> {
  const raw = jobFile.test(id) && (await fs.readFile(`${dir}/${id}`, "utf8").catch(unless("ENOENT")));
  return raw ? (JSON.parse(raw) as Job) : Promise.reject(notFound("there is no such job"));
}
async function poll(id: string): Promise<Fields> {
  const job = await find(id);
  const total = job.text.split(/\s+/).filter((word) => word !== "").length;
  const counted = Math.min(total, Math.floor((job.pace * (Date.now() - job.started)) / 1000));
  const state = { job_spec: { task_type: taskType, plugin_version: version }, error_code: "", message: `${counted} of ${total} words` };
  if (total === 0) return { ...state, job_state: "FAILED", error_code: "EmptyText", error_kind: "USER", recoverable: false };
  if (counted < total) return { ...state, job_state: "RUNNING", custom_info: { counted }, poll_after_seconds: 1 };
  return { ...state, job_state: "SUCCEEDED", outputs: { literals: { words: { scalar: { primitive: { integer: `${total}` } } } } } };
}
async function remove(id: string): Promise<Fields> {
  if (jobFile.test(id)) await fs.rm(`${dir}/${id}`, { force: true }); // what is not there is deleted already
  return { error_code: "", message: "" };
}
const jobId = (ref: Fields, most = 65536): string => {
  const [id, v] = [text(ref.job_id, "job_id"), ref.task_type_version ?? 0];
  due(Number.isInteger(v) && Number(v) >= 0 && Number(v) < 2 ** 31, v, `task_type_version is not an integer from 0 to ${2 ** 31 - 1}`);
  return due(id !== "" && Buffer.byteLength(id) <= most, id, `job_id is empty, or longer than ${most} bytes`);
};
const queried = (q: URLSearchParams) => jobId({ job_id: q.get("job_id"), task_type_version: Number(q.get("task_type_version") ?? 0) }, 4095);
const pollMany = async ({ jobs }: Fields): Promise<Fields> => {
  const right = Array.isArray(jobs) && jobs.length > 0 && jobs.length <= 1000;
  const ids = due<unknown[]>(right, jobs, "jobs is not an array of 1 to 1000 jobs").map((ref, i) => jobId(object(ref, `jobs[${i}]`)));
  const results = await Promise.all(ids.map((id) => poll(id).catch(failure)));
  return { results: results.map((r) => (r instanceof Failure ? { error: { status: r.status, ...r.body } } : { job: r })) };
};
async function readBody(req: IncomingMessage): Promise<Fields> {
  const { "content-type": type = "", "content-encoding": encoding } = req.headers;
  const plain = /^application\/json\s*(;\s*charset="?utf-8"?\s*)?$/i.test(type) && !encoding;
  if (!plain) throw new Failure(415, "INVALID_ARGUMENT", "the body is not plain application/json in UTF-8");
  const chunks: Buffer[] = [];
  let size = 0; // what is too large is read to its end, so that its sender hears of it
  for await (const chunk of req as AsyncIterable<Buffer>) if ((size += chunk.length) <= maxBody) chunks.push(chunk);
  if (size > maxBody) throw new Failure(413, "RESOURCE_EXHAUSTED", `the request is over ${maxBody} bytes, the limit of this service`);
  const parse = async () => JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(chunks))) as unknown;
  return object(await parse().catch(() => undefined), "the body"); // what is no JSON is no object either
}
type Handler = (query: URLSearchParams, body: Fields, key: string) => Fields | Promise<Fields>;
const plugin = { name: taskType, task_type: taskType, plugin_version: version, task_type_versions: [], mode: "async", capabilities: [] };
const routes: [RegExp, Record<string, Handler>][] = [
  [/^\/plugins\/v1$/, { GET: () => ({ plugins: [plugin] }) }],
  [/^\/healthz$/, { GET: () => ({ status: "up" }) }],
  [/^\/readyz$/, { GET: () => ({ status: draining ? "draining" : "ready" }) }],
  [/^\/plugins\/v1(\/[^/]+){2}$/, { PUT: (_, body, key) => create(body, key), GET: (q) => poll(queried(q)), DELETE: (q) => remove(queried(q)) }],
  [/^\/plugins\/v1(\/[^/]+){2}\/poll$/, { POST: (_, body) => pollMany(body) }],
  [/^\/plugins\/v1(\/[^/]+){2}\/delete$/, { POST: (_, body) => remove(jobId(body)) }],
  [/^\/plugins\/v1(\/[^/]+){2}\/(execute|logs|metrics)$/, { POST: () => Promise.reject(new Failure(501, "UNIMPLEMENTED", "this plugin has no such ability")) }],
];
async function answer(req: IncomingMessage): Promise<Fields> {
  const { method = "", headers } = req, url = (req.url ?? "").replace(/^https?:\/\/[^/?]*/i, "");
  const [path = "", ...query] = url.split("?"), [, , , type, of] = path.split("/");
  const has = routes.find(([pattern]) => pattern.test(path))?.[1];
  if (!has) throw new Failure(404, "UNIMPLEMENTED", "there is no such path; the plugins are below /plugins/v1");
  const [handler, allow] = [Object.hasOwn(has, method) && has[method], Object.keys(has).join(", ")];
  if (!handler) throw new Failure(405, "UNIMPLEMENTED", `this path has ${allow}`, { allow });
  const body = method === "PUT" || method === "POST" ? await readBody(req) : {};
  if (type !== undefined && (type !== taskType || of !== version)) throw notFound("this service has no such plugin");
  const key = String(headers["idempotency-key"] ?? randomUUID());
  due(/^[!-~]{1,64}$/.test(key), key, "Idempotency-Key is not 1 to 64 visible ASCII characters");
  return handler(new URLSearchParams(query.join("?")), body, key);
}
const unforeseen = new Failure(500, "INTERNAL", "the service failed; its log has the details");
const failure = (e: unknown): Failure => (e instanceof Failure ? e : (console.error(e), unforeseen));
const server = createServer({ requestTimeout: 60_000, keepAliveTimeout: 300_000, maxHeaderSize: 64 << 10 }, async (req, res) => {
  const value = await answer(req).catch(failure);
  const [status, body] = value instanceof Failure ? [value.status, value.body] : [value.status === "draining" ? 503 : 200, value];
  const always = { "content-type": "application/json", "cache-control": "no-store", ...(draining && { connection: "close" }) };
  res.writeHead(status, { ...always, ...(value instanceof Failure && value.headers) }).end(JSON.stringify(body) + "\n");
});
mkdirSync(dir, { recursive: true });
server.listen(Number(process.env.PORT ?? 8080), process.env.HOST ?? "127.0.0.1", () => console.log("serving at", server.address()));
process.once("SIGTERM", () => { // it says that it is going, and goes when calls under way have ended
  draining = true;
  setTimeout(() => server.close(), Number(process.env.DRAIN_SECONDS ?? 5) * 1000);
  setTimeout(() => process.exit(1), 25_000).unref();
});
