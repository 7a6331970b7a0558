// Asking the daemon. Owns the token, which stays in this tab, and the words for what can go wrong.

const KEPT_AS = "sync-engine token";
let token = "";
try {
  token = sessionStorage.getItem(KEPT_AS) ?? "";
} catch {
  /* asked for again after a reload */
}

function keepToken(text) {
  token = text;
  try {
    if (text) sessionStorage.setItem(KEPT_AS, text);
    else sessionStorage.removeItem(KEPT_AS);
  } catch {
    /* as above */
  }
}

// How long an answer may take, in milliseconds.
const PATIENCE = 10000;

// Why something was not answered: `status` is that of HTTP, 0 where nobody answered.
class Refusal extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});

async function ask(path, options) {
  // A header cannot hold it, so it is nobody's token; the daemon need not be asked.
  if (/[^\x21-\x7e]/.test(token)) throw new Refusal(401, "a token holds letters, digits and signs of ASCII, and no blanks");
  const begin = () =>
    fetch(path, { signal: AbortSignal.timeout(PATIENCE), ...options, headers: { ...headers(), ...options?.headers } });
  let answer;
  try {
    // A connection that was kept may have been closed meanwhile: that is no news.
    answer = await begin().catch((error) =>
      options?.method || options?.signal || error.name === "TimeoutError" ? Promise.reject(error) : begin()
    );
    if (answer.ok) return answer;
  } catch (error) {
    throw new Refusal(0, error.name === "TimeoutError" ? `no answer within ${PATIENCE / 1000} s` : "no connection");
  }
  const text = await answer.text().catch(() => "");
  let reason = text.trim();
  try {
    reason = JSON.parse(text).error ?? reason;
  } catch {
    /* it is told as it is */
  }
  throw new Refusal(answer.status, reason || `HTTP ${answer.status}`);
}

// A number as it was sent, where JavaScript would change it.
class Exact {
  constructor(text) {
    this.text = text;
  }
}

const read = (text) =>
  JSON.parse(text, (key, value, context) =>
    typeof value === "number" && context?.source && String(value) !== context.source ? new Exact(context.source) : value
  );

// The answer; `exact` where values of rows are in it.
async function get(path, exact) {
  const answer = await ask(path);
  try {
    return exact ? read(await answer.text()) : await answer.json();
  } catch {
    throw new Refusal(0, "an answer was cut off, or is none of the daemon's");
  }
}

// Server-sent events, with the token: calls `take` with the name, the data and the id of each, and with "open" once it is let in. Ends
// when the daemon ends it.
async function follow(path, lastId, signal, take) {
  const answer = await ask(path, { signal, headers: lastId ? { "Last-Event-ID": lastId } : {} });
  take("open");
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const fields = {};
      for (const line of part.split("\n")) {
        const at = line.indexOf(":");
        if (at > 0) fields[line.slice(0, at)] = line.slice(at + 1).replace(/^ /, "");
      }
      take(fields.event ?? "message", fields.data, fields.id);
    }
  }
}
