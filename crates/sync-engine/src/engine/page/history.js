// The last five minutes, from the differences of one status to the next.

const SPAN = 300000;
// A pause after which nothing is known of the time between.
const GAP = 6000;

// Answers over which a rate is the mean: single changes are no peaks.
const MEAN = 5;

const samples = [];
const answers = [];
// Peers that dialed this node and are gone, with the time since when.
const lost = new Map();
let last = null;

const peerName = (peer) => peer.node ?? peer.url;
const isDialed = (peer) => /^wss?:/.test(peer.url);
const worst = (peer, field) => Math.max(0, ...peer.databases.map((database) => database[field]));
const known = (database) => Object.values(database.have).reduce((sum, sequence) => sum + sequence, 0);

// Takes in a status; `now` is in milliseconds.
function note(status, now) {
  const anew = last && status.uptime_seconds < last.status.uptime_seconds;
  if (!last || anew || now - last.now > GAP) answers.length = 0;
  const base = answers[0];
  const seconds = base ? (now - base.now) / 1000 : 0;
  const rate = (later, earlier) => (seconds && earlier !== undefined && later >= earlier ? (later - earlier) / seconds : null);
  const earlierPeers = new Map(base?.status.peers.map((peer) => [peerName(peer), peer]));
  const earlierDatabases = new Map(base?.status.databases.map((database) => [database.name, database]));
  const sample = { now, gap: !seconds, lag: {}, behind: {}, rates: {}, changes: {}, in: 0, out: 0 };
  for (const peer of status.peers) {
    const key = peerName(peer);
    const before = earlierPeers.get(key);
    lost.delete(key);
    if (peer.state !== "connected") continue;
    sample.lag[key] = worst(peer, "lag_ms") / 1000;
    sample.behind[key] = worst(peer, "behind");
    const rates = { in: rate(peer.bytes_in, before?.bytes_in), out: rate(peer.bytes_out, before?.bytes_out) };
    sample.rates[key] = rates;
    sample.in += rates.in ?? 0;
    sample.out += rates.out ?? 0;
  }
  for (const database of status.databases) {
    const before = earlierDatabases.get(database.name);
    sample.changes[database.name] = rate(known(database), before && known(before));
  }
  // Of peers that are dialed the daemon goes on telling; those that dialed it are only missing.
  const present = new Set(status.peers.map(peerName));
  for (const peer of last?.status.peers ?? []) {
    if (!present.has(peerName(peer)) && !isDialed(peer)) lost.set(peerName(peer), { peer, since: now });
  }
  for (const [key, { since }] of lost) if (now - since > SPAN) lost.delete(key);
  samples.push(sample);
  while (samples.length && now - samples[0].now > SPAN + GAP) samples.shift();
  last = { status, now };
  answers.push(last);
  if (answers.length > MEAN) answers.shift();
  return anew;
}

// The lines of a plot: those of `field`, the highest first.
function series(field, limit) {
  const most = new Map();
  for (const sample of samples) {
    for (const key in sample[field]) most.set(key, Math.max(most.get(key) ?? 0, sample[field][key] ?? 0));
  }
  const keys = [...most.keys()];
  const chosen = keys.length <= limit ? keys : keys.sort((one, other) => most.get(other) - most.get(one)).slice(0, limit);
  const lines = chosen.sort().map((key) => ({ key, of: (sample) => sample[field][key] ?? null }));
  return { lines, others: keys.length - chosen.length };
}
