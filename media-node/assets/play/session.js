// One WebRTC session with a WHIP or WHEP endpoint of this server (RFC 9725, draft-ietf-wish-whep): offer and answer over HTTP, an ICE
// restart where the connection breaks, and the end. The server has one public address and checks nobody, so no candidate of ours is
// told to it.

const SDP = "application/sdp";
const FRAGMENT = "application/trickle-ice-sdpfrag";
/** Longest wait for an answer beyond what the server was asked to wait, in milliseconds. */
const ANSWER = 15_000;
/** Within this a connection comes about wherever it can, by TCP too, in milliseconds. */
const CONNECT = 6_000;
/** A connection that is silent for less than this mends by itself, in milliseconds: browsers call it disconnected after a few seconds. */
const PATIENCE = 2_000;

/** The server said no. */
export class Refused extends Error {
  constructor(answer, detail) {
    super(`${answer.status}`);
    this.status = answer.status;
    this.retryAfter = Number(answer.headers.get("retry-after")) || 0;
    this.detail = detail;
  }
}

export class Session {
  #url;
  #headers;
  #answer;

  constructor(connection, url, headers, answer) {
    this.connection = connection;
    this.#url = url;
    this.#headers = headers;
    this.#answer = answer;
  }

  /** Offers what the connection has. `wait`: how many seconds the server may take until there is something to answer with. */
  static async open(endpoint, connection, { key = "", wait = 0 } = {}) {
    const headers = key === "" ? {} : { Authorization: `Bearer ${key}` };
    const url = new URL(endpoint, document.baseURI);
    if (wait > 0) url.searchParams.set("wait", String(wait));
    const offer = await connection.createOffer();
    const signal = AbortSignal.timeout(ANSWER + wait * 1000);
    const answer = await fetch(url, { method: "POST", headers: { ...headers, "Content-Type": SDP }, body: offer.sdp, cache: "no-store", signal });
    const text = await answer.text();
    const location = answer.headers.get("location");
    if (answer.status !== 201 || location === null) throw new Refused(answer, text);
    const session = new Session(connection, new URL(location, answer.url).href, headers, text);
    try {
      // before anything is gathered, so that the servers that are named here are used
      const iceServers = links(answer.headers.get("link"));
      if (iceServers.length > 0) connection.setConfiguration({ ...connection.getConfiguration(), iceServers });
      await connection.setLocalDescription(offer);
      await connection.setRemoteDescription({ type: "answer", sdp: text });
    } catch (error) {
      session.close();
      throw error;
    }
    return session;
  }

  /**
   * Tells how the connection fares until it is closed: "connected"; "broken", while it is mended; "blocked", if it never came about;
   * "ended" by the server; "lost". The last three are said once.
   */
  watch(tell) {
    const { connection } = this;
    const transport = [...connection.getReceivers(), ...connection.getSenders()].find((one) => one.transport)?.transport;
    let timer = 0;
    let isOver = false;
    let isMending = false;
    let wasConnected = false;
    const within = (milliseconds, act) => {
      clearTimeout(timer);
      timer = setTimeout(act, milliseconds);
    };
    const over = (how) => {
      clearTimeout(timer);
      if (isOver || connection.connectionState === "closed") return;
      isOver = true;
      tell(how);
    };
    const giveUp = () => over(wasConnected ? "lost" : "blocked");
    const mend = () => {
      if (isMending || !wasConnected) return giveUp();
      isMending = true;
      within(CONNECT, giveUp);
      this.#restart().then(look, giveUp);
    };
    const look = () => {
      switch (connection.connectionState) {
        case "connected":
          clearTimeout(timer);
          wasConnected = true;
          isMending = false;
          tell("connected");
          break;
        case "disconnected":
          tell("broken");
          if (!isMending) within(PATIENCE, mend);
          break;
        case "failed":
          if (!isMending) tell("broken");
          mend();
          break;
      }
    };
    connection.addEventListener("connectionstatechange", look);
    // the server's goodbye, which leaves the connection itself as it was
    transport?.addEventListener("statechange", () => {
      if (transport.state === "closed") over("ended");
    });
    within(CONNECT, giveUp);
    look();
  }

  /** New credentials on the same session: what it carries goes on. */
  async #restart() {
    const { connection } = this;
    const offer = await connection.createOffer({ iceRestart: true });
    await connection.setLocalDescription(offer);
    const answer = await fetch(this.#url, {
      method: "PATCH",
      headers: { ...this.#headers, "Content-Type": FRAGMENT, "If-Match": "*" },
      body: fragment(offer.sdp),
      cache: "no-store",
      signal: AbortSignal.timeout(ANSWER),
    });
    const text = await answer.text();
    if (answer.status !== 200) throw new Refused(answer, text);
    this.#answer = renewed(this.#answer, text);
    await connection.setRemoteDescription({ type: "answer", sdp: this.#answer });
  }

  /** Ends it, also while the page is left. */
  close() {
    this.connection.close();
    fetch(this.#url, { method: "DELETE", headers: this.#headers, keepalive: true }).catch(() => {});
  }
}

const lines = (sdp) => sdp.split(/\r?\n/).filter((line) => line !== "");
const one = (sdp, name) => lines(sdp).find((line) => line.startsWith(`a=${name}:`)) ?? "";

/** What an ICE restart tells of an offer (RFC 8840): all its media is one bundle, of which the first names the credentials. */
function fragment(offer) {
  const all = lines(offer);
  const media = all.find((line) => line.startsWith("m="));
  return [one(offer, "group"), media, one(offer, "mid"), one(offer, "ice-ufrag"), one(offer, "ice-pwd"), ""].join("\r\n");
}

/** The answer with the credentials, and the candidates if there are any, of a fragment. */
function renewed(answer, fragment) {
  const candidates = lines(fragment).filter((line) => line.startsWith("a=candidate:"));
  const kept = lines(answer).flatMap((line) => {
    if (line.startsWith("a=ice-ufrag:")) return [one(fragment, "ice-ufrag"), ...candidates];
    if (line.startsWith("a=ice-pwd:")) return [one(fragment, "ice-pwd")];
    return candidates.length > 0 && line.startsWith("a=candidate:") ? [] : [line];
  });
  return `${kept.join("\r\n")}\r\n`;
}

/** The ICE servers of `Link` headers: `<stun:…>; rel="ice-server"`, with the credentials that TURN needs. */
function links(header) {
  return [...(header ?? "").matchAll(/<([^>]*)>((?:\s*;\s*[\w-]+\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^\s;,"]*))*)/g)].flatMap(([, url, rest]) => {
    const named = {};
    for (const [, name, quoted, plain] of rest.matchAll(/([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))/g)) {
      named[name.toLowerCase()] = quoted === undefined ? plain : quoted.replaceAll(/\\(.)/g, "$1");
    }
    if (named.rel !== "ice-server") return [];
    return [{ urls: url, ...(named.username === undefined ? {} : { username: named.username, credential: named.credential ?? "" }) }];
  });
}
