// What a WebRTC connection says of itself, and rates of it between two looks.

/** Looks each time it is called, and returns what happened since the time before. */
export function meter(connection) {
  let before = new Map();
  return async () => {
    const now = new Map(await connection.getStats());
    const all = (type) => [...now.values()].filter((one) => one.type === type);
    const was = before;
    before = now;
    const flow = (one) => {
      const old = was.get(one.id);
      const seconds = old ? (one.timestamp - old.timestamp) / 1000 : 0;
      const grown = (name) => (old ? (one[name] ?? 0) - (old[name] ?? 0) : 0);
      return { ...one, grown, bitsPerSecond: seconds > 0 ? (grown(one.type === "inbound-rtp" ? "bytesReceived" : "bytesSent") * 8) / seconds : null, codec: now.get(one.codecId)?.mimeType?.split("/")[1] };
    };
    const transport = all("transport")[0];
    const pair = now.get(transport?.selectedCandidatePairId) ?? all("candidate-pair").find((one) => one.nominated && one.state === "succeeded");
    const local = now.get(pair?.localCandidateId);
    return {
      received: all("inbound-rtp").map(flow),
      sent: all("outbound-rtp").map(flow),
      /** What the peer says of what it was sent. */
      told: all("remote-inbound-rtp"),
      roundTrip: pair?.currentRoundTripTime ?? null,
      way: local ? `${local.candidateType === "relay" ? "TURN, " : ""}${local.protocol.toUpperCase()}` : "",
    };
  };
}

export const sum = (list, value) => list.reduce((total, one) => total + (value(one) ?? 0), 0);
export const bitrate = (bits) => (bits === null ? "unknown" : bits >= 1e6 ? `${(bits / 1e6).toFixed(2)} Mbit/s` : `${Math.round(bits / 1000)} kbit/s`);
export const milliseconds = (seconds) => (seconds === null || Number.isNaN(seconds) ? "unknown" : `${Math.round(seconds * 1000)} ms`);
export const percent = (part, whole) => `${whole > 0 ? ((part / whole) * 100).toFixed(1) : "0.0"} %`;

/** Shows rows of a name for scripts, a label and a value in a list of descriptions. */
export function list(box, rows) {
  box.replaceChildren(
    ...rows.flatMap(([name, label, value]) => {
      const [term, description] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = label;
      description.textContent = value;
      description.dataset.name = name;
      return [term, description];
    }),
  );
}
