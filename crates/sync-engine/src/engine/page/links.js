// This node and its peers, drawn: peers left and right of it, or below it where there is little room. Owns how a link looks.

// What there is to say of a link: its look, its state in words, and the ways that changes take.
function linkOf(peer, gone) {
  const behind = worst(peer, "behind");
  const way = peer.read_only_there ? "in" : peer.role === "read" ? "out" : "both";
  const rights = peer.read_only_there
    ? "takes nothing from here"
    : peer.role === "read"
      ? "may only read"
      : peer.role === "write"
        ? "reads and writes"
        : "";
  const states = { connecting: "connecting …", waiting: "not connected, is tried again", self: "is this node itself" };
  let look = peer.state === "connecting" ? "going" : "bad";
  let text = states[peer.state] ?? peer.state;
  if (gone) text = `gone for ${span(last.now - gone.since)}`;
  else if (peer.state === "connected") {
    [look, text] = peer.read_only_there ? ["good", "connected"] : standing({ behind, lag_ms: worst(peer, "lag_ms") });
  }
  return { look, text, way: !gone && peer.state === "connected" ? way : "none", rights };
}

// For so long, in milliseconds, what a peer lacks is merely on its way.
const PROMPT = 2000;

// How a peer's database stands to the one here: its look, and words.
const standing = ({ behind, lag_ms }) =>
  behind === 0 ? ["good", "equal"] : [lag_ms < PROMPT ? "going" : "warn", `behind by ${number(behind)} for ${span(lag_ms)}`];

const WAYS = { both: "changes go both ways", out: "changes go only to it", in: "changes come only from it", none: "" };

function links(status) {
  const peers = [...status.peers.map((peer) => ({ peer })), ...[...lost.values()].map((gone) => ({ peer: gone.peer, gone }))];
  peers.sort((one, other) => (peerName(one.peer) < peerName(other.peer) ? -1 : 1));
  // One peer stands to the right; of several the first half to the left.
  const half = peers.length === 1 ? 0 : Math.ceil(peers.length / 2);
  const sides = [peers.slice(0, half), peers.slice(half)];
  const rows = Math.max(1, sides[0].length, sides[1].length);
  const place = (side, index) => 50 + ((index - (sides[side].length - 1) / 2) * 100) / rows;
  const lines = sides.flatMap((side, at) =>
    side.map((entry, index) => {
      const [x, y, { look }] = [at * 100, place(at, index), linkOf(entry.peer, entry.gone)];
      return h("path", {
        key: peerName(entry.peer),
        class: `link ${look}`,
        d: `M50 50C${(50 + x) / 2} 50 ${(50 + x) / 2} ${y} ${x} ${y}`,
        "vector-effect": "non-scaling-stroke"
      });
    })
  );
  return part(
    "links",
    "Nodes and links",
    h(
      "div",
      { class: `map${half ? "" : " one-sided"}${rows > 5 ? " dense" : ""}`, css: { "--rows": rows } },
      h(
        "div.middle",
        h("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" }, lines),
        h(
          "div.hub",
          name(status.node, { title: status.node }),
          h("span.quiet", `this node, ${plural(status.databases.length, "database")}`)
        )
      ),
      half > 0 && h("ul", { key: "left", class: "peers left" }, sides[0].map(peerCard)),
      peers.length
        ? h("ul", { key: "right", class: "peers right" }, sides[1].map(peerCard))
        : h(
            "p.empty",
            "No peers yet. Name one in ",
            h("code", "peers"),
            " of the configuration, or with ",
            h("code", "--peer"),
            ", here or there."
          )
    ),
    h(
      "ul.notes",
      peers
        .filter(({ peer }) => peer.last_error && peer.state !== "connected")
        .map(({ peer }) =>
          h("li", { key: peerName(peer) }, badge("bad", name(peerName(peer))), " ", h("span.reason", peer.last_error))
        )
    )
  );
}

function peerCard({ peer, gone }) {
  const { look, text, way, rights } = linkOf(peer, gone);
  const rates = samples.at(-1)?.rates[peerName(peer)];
  const traffic =
    !gone && rates && rates.in !== null ? `${quantity("bytes", rates.in)} in, ${quantity("bytes", rates.out ?? 0)} out` : "";
  return h(
    "li",
    { key: peerName(peer), class: `peer ${look}` },
    way !== "none" && h("span.way", { title: WAYS[way] }, icon(way), h("span.unseen", WAYS[way])),
    h("div.line", name(peerName(peer), { title: peerName(peer) }), rights && h("span.rights", rights)),
    h("div.line", badge(look, text), traffic && h("span.quiet.traffic", traffic)),
    peer.node !== null &&
      h("div.line.quiet.where", { title: peer.url }, isDialed(peer) ? `dialed: ${peer.url}` : `dials this node, from ${peer.url}`)
  );
}
