// The page as a whole: asks each second, draws, and says when the daemon does not answer.

const PACE = 1000;
const SLOWEST = 15000;

const state = {
  status: null,
  away: null,
  pause: PACE,
  asking: document.documentElement.dataset.token === "" && !token ? "none" : "",
  denied: ""
};
let timer = 0;
let polling = false;

// Takes note of an error that concerns the page as a whole; false where it is only about what was asked.
function troubled(error) {
  if (error.status === 401 || (error.status === 403 && !state.status)) {
    state.asking = token ? "wrong" : "none";
    state.denied = error.message;
    return true;
  }
  if (error.status !== 0) return false;
  if (!state.away) say("The daemon does not answer");
  state.pause = state.away ? Math.min(SLOWEST, state.pause * 2) : PACE;
  state.away ??= { since: new Date(), reason: error.message };
  state.away.reason = error.message;
  return true;
}

// Asks once, and goes on each second; `entered` where somebody has just entered a token.
async function poll(entered) {
  clearTimeout(timer);
  if (polling || document.hidden || (state.asking && !entered)) return;
  polling = true;
  try {
    const shown = token;
    const status = await get("/v1/status");
    // Whoever has just forgotten the token sees nothing more.
    if (shown === token) await take(status);
  } catch (error) {
    // Whatever else it is, the next answer can be a better one.
    if (!troubled(error)) troubled(new Refusal(0, error.message));
  } finally {
    polling = false;
  }
  redraw();
  if (!document.hidden && !state.asking) {
    if (state.away) state.away.next = Date.now() + state.pause;
    timer = setTimeout(() => poll(), state.pause);
  }
}

async function take(status) {
  const before = state.status;
  if (state.away) say("The daemon answers again");
  Object.assign(state, { status, away: null, pause: PACE, asking: "", denied: "" });
  const anew = note(status, performance.now());
  announce(before, status);
  redraw();
  if (anew) list.open = list.entries.length ? -1 : null;
  await loadEvents();
  await conflictsChanged(openConflicts(status));
  followChanges();
}

const openConflicts = (status) => status.databases.reduce((sum, database) => sum + database.conflicts, 0);

// What somebody who does not see the page should hear.
function announce(before, after) {
  if (!before) return;
  const peers = (status) => new Set(status.peers.filter((peer) => peer.state === "connected").map(peerName));
  const [earlier, present] = [peers(before), peers(after)];
  for (const peer of present) if (!earlier.has(peer)) say(`${peer} is connected`);
  for (const peer of earlier) if (!present.has(peer)) say(`${peer} is not connected any more`);
  const more = openConflicts(after) - openConflicts(before);
  if (more > 0) say(plural(more, "new conflict"));
}

function header() {
  const { status } = state;
  const problems = status
    ? (status.problems ?? status.databases.filter(inTrouble).map((database) => `${database.name}: ${database.state}`))
    : [];
  const healthy = status?.healthy && !problems.length;
  document.title = status ? `${state.away ? "✕ " : healthy ? "" : "▲ "}${status.node} · sync-engine` : "sync-engine";
  const theme = document.documentElement.dataset.theme ?? "auto";
  const next = { auto: "light", light: "dark", dark: "auto" }[theme];
  return [
    h("h1", status ? name(status.node, { title: status.node }) : "sync-engine"),
    h("p.facts.quiet", status ? `sync-engine ${status.version}, up ${span(status.uptime_seconds * 1000)}` : "\u00a0"),
    status &&
      !state.away &&
      !state.asking &&
      h(
        "p.health",
        healthy
          ? badge("good", "healthy")
          : badge("bad", problems.length === 1 ? problems[0] : plural(problems.length, "problem"))
      ),
    h(
      "p.tools",
      token && !state.asking && button("Forget the token", forget),
      button(`Theme: ${theme}`, () => chooseTheme(next), { title: `change to ${next}` })
    )
  ];
}

function chooseTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("theme", theme);
  } catch {
    /* for this time only */
  }
  redraw();
}

function notice() {
  const { away, asking } = state;
  if (!away || asking) return [];
  const seconds = Math.max(0, Math.ceil(((away.next ?? Date.now()) - Date.now()) / 1000));
  return [
    h(
      "div.away",
      badge("bad", `The daemon does not answer: ${away.reason}.`),
      h(
        "span",
        state.status ? `What is shown is from ${utc(away.since)} UTC. ` : "",
        h("span.figure", `Tried again in ${seconds} s.`)
      ),
      button("Try now", () => poll())
    )
  ];
}

function summary({ databases: all, peers }) {
  const sum = (field) => all.reduce((total, database) => total + database[field], 0);
  const connected = peers.filter((peer) => peer.state === "connected");
  const wanted = peers.length + lost.size;
  const taking = connected.filter((peer) => !peer.read_only_there);
  const most = (field) => Math.max(0, ...taking.map((peer) => worst(peer, field)));
  const behind = most("behind");
  const tile = (look, title, figure, says) =>
    h("div", { key: title, class: `tile ${look}` }, h("dt", title), h("dd", h("b", figure), " ", says));
  const waiting = sum("backlog") + sum("parked");
  return h(
    "dl.summary",
    tile(
      connected.length < wanted ? "bad" : "",
      "Peers",
      connected.length === wanted ? number(wanted) : `${connected.length} of ${wanted}`,
      "connected"
    ),
    tile(most("lag_ms") >= PROMPT ? "warn" : "", "Furthest behind", number(behind), behind === 1 ? "change" : "changes"),
    tile(sum("conflicts") ? "warn" : "", "Conflicts", number(sum("conflicts")), "open"),
    tile(sum("parked") ? "warn" : "", "Waiting", number(waiting), waiting === 1 ? "change" : "changes")
  );
}

function tokenForm() {
  const wrong = state.asking === "wrong";
  const enter = (event) => {
    event.preventDefault();
    keepToken(byId("token").value.trim());
    poll(true).then(() => redraw(() => (byId("token") ?? byId("content")).focus()));
  };
  return h(
    "form.token",
    { on: { submit: enter } },
    h("h2", "This node asks for a token"),
    h("p", "It is kept in this tab until the tab is closed, and sent to this node only."),
    h("label", { for: "token" }, "Token"),
    h("input", {
      id: "token",
      type: "password",
      autocomplete: "off",
      spellcheck: "false",
      required: true,
      "aria-invalid": wrong ? "true" : null,
      "aria-describedby": wrong ? "token-wrong" : null
    }),
    wrong && h("p", { id: "token-wrong", class: "outcome bad", role: "alert" }, `Not let in: ${state.denied}.`),
    h("p.actions", h("button.main", "Show the status"))
  );
}

function forget() {
  keepToken("");
  stream.ended?.abort();
  Object.assign(state, { status: null, asking: "none", away: null });
  Object.assign(stream, { wanted: false, changes: [], lastId: null });
  Object.assign(list, { entries: [], open: null, ready: false, newer: 0, more: false });
  [events, eventsAfter, last] = [[], 0, null];
  samples.length = answers.length = 0;
  lost.clear();
  redraw(() => byId("token")?.focus());
}

let drawing = false;
let afterwards = [];
// Draws soon what there is to see, once however often it is asked to; then calls `then`.
function redraw(then) {
  if (then) afterwards.push(then);
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(draw);
}

function draw() {
  drawing = false;
  const { status, asking, away } = state;
  show(byId("top"), header());
  show(byId("notice"), notice());
  const main = byId("content");
  main.classList.toggle("stale", Boolean(away));
  if (asking) show(main, [tokenForm()]);
  else if (status)
    show(main, [summary(status), links(status), plots(), databases(status), conflicts(status), recent(), changes()]);
  else show(main, [h("p.empty", away ? "Nothing is known yet." : "Asking the daemon …")]);
  measure();
  for (const then of afterwards.splice(0)) then();
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) poll();
});
// Counts down to the next try.
setInterval(() => {
  if (state.away && !document.hidden) redraw();
}, 1000);
redraw();
poll();
