// A live stream over WebRTC (WHEP): what is seen is as old as the way is long.

import { Refused, Session } from "./session.js";
import { bitrate, meter, milliseconds, percent, sum } from "./statistics.js";

/** How many seconds a server may hold an offer until its stream is on air. */
const WAIT = 25;
/** Between two looks at what arrives, in milliseconds. */
const LOOK = 500;
/** A picture that has not changed for so long is one that is waited for, in milliseconds. */
const STILL = 1_500;
/** Without a picture for so long, while sound arrives, the stream is one that WebRTC cannot show, in milliseconds. */
const NO_PICTURE = 8_000;
/** From the epoch of NTP to that of Unix, in milliseconds. */
const NTP = 2_208_988_800_000;

/** Offers to receive; the answer says whether the stream is on air. When it is to wait, the server answers as soon as it is. */
export async function look(endpoint, isWaiting) {
  const begin = performance.now();
  const connection = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
  for (const kind of ["video", "audio"]) connection.addTransceiver(kind, { direction: "recvonly" });
  try {
    return { is: "live", session: await Session.open(endpoint, connection, { wait: isWaiting ? WAIT : 0 }) };
  } catch (error) {
    connection.close();
    if (!(error instanceof Refused)) {
      // of a network that is gone or a server that says nothing; all else is a browser that cannot do it
      return { is: error instanceof TypeError || error.name === "TimeoutError" ? "unreachable" : "unfit" };
    }
    const { status, retryAfter } = error;
    // the next look waits at the server, if that is what this one did, or if this one was not to
    const isHeld = !isWaiting || performance.now() - begin > WAIT * 500;
    if (status === 404 && retryAfter > 0) return { is: "off", isHeld, retryAfter };
    if (status === 503) return { is: "full", retryAfter };
    // of a server whose WebRTC is turned off, 501
    return { is: (status >= 500 && status !== 501) || status === 429 ? "unreachable" : "unfit", retryAfter };
  }
}

/** Plays what was found; `tell` is told "broken" (the connection), "still" (the picture) and "mended" (both), `end` how it ends. */
export function start({ session }, video, tell, end) {
  const { connection } = session;
  const measure = meter(connection);
  let seen = null;
  /** What was shown, and since when no more was. */
  let wasAt = 0;
  let since = Infinity;
  let isStill = false;
  const progress = () => sum(seen?.received ?? [], (one) => (hasVideo(connection) ? one.framesDecoded : one.packetsReceived));
  session.watch((state) => {
    if (state === "broken") {
      tell(state);
    } else if (state === "connected") {
      if (since < Infinity) tell("mended");
      since = performance.now();
    } else {
      end(state);
    }
  });
  video.srcObject = new MediaStream(connection.getReceivers().map((receiver) => receiver.track));
  const leave = () => session.close();
  addEventListener("pagehide", leave);
  const timer = setInterval(async () => {
    seen = await measure();
    // while nobody looks, a browser need not show anything
    if (progress() !== wasAt || document.hidden) {
      if (isStill) tell("mended");
      [wasAt, since, isStill] = [progress(), performance.now(), false];
    }
    const still = performance.now() - since;
    if (still > STILL && !isStill) {
      isStill = true;
      tell("still");
    }
    const hasSound = seen.received.some((one) => one.kind === "audio" && one.grown("packetsReceived") > 0);
    if (still > NO_PICTURE && hasSound && hasVideo(connection)) end("unfit");
  }, LOOK);
  return {
    latency: () => latency(seen),
    progress,
    rows: () => (seen ? rows(seen) : []),
    toLive: () => {},
    stop: () => {
      clearInterval(timer);
      removeEventListener("pagehide", leave);
      session.close();
      video.srcObject = null;
    },
  };
}

const hasVideo = (connection) =>
  connection.getTransceivers().some(({ receiver, currentDirection }) => receiver.track.kind === "video" && currentDirection === "recvonly");

/** Of what is shown now, by the server's clock where it tells the time; else what is known of the way and the buffer, in seconds. */
function latency(seen) {
  const picture = seen?.received.find((one) => one.kind === "video") ?? seen?.received[0];
  if (!picture) return null;
  if (picture.estimatedPlayoutTimestamp) return (picture.timestamp + NTP - picture.estimatedPlayoutTimestamp) / 1000;
  return buffered(picture) + (seen.roundTrip ?? 0) / 2;
}

/** How long a frame waits to be shown. */
const buffered = (one) => one.grown("jitterBufferDelay") / one.grown("jitterBufferEmittedCount");

function rows({ received, roundTrip, way }) {
  const picture = received.find((one) => one.kind === "video");
  const [arrived, lost] = ["packetsReceived", "packetsLost"].map((name) => sum(received, (one) => one.grown(name)));
  const codecs = received.map((one) => one.codec).filter(Boolean).join(", ");
  return [
    ["bitrate", "Bitrate", bitrate(received.some((one) => one.bitsPerSecond !== null) ? sum(received, (one) => one.bitsPerSecond) : null)],
    ["rate", "Frame rate", picture?.framesPerSecond ? `${Math.round(picture.framesPerSecond)} fps` : "none"],
    ["jitter", "Jitter buffer", milliseconds(buffered(picture ?? received[0] ?? { grown: () => NaN }))],
    ["loss", "Loss", `${percent(Math.max(lost, 0), arrived + lost)}, ${sum(received, (one) => one.packetsLost)} in all`],
    ["freezes", "Freezes", `${picture?.freezeCount ?? 0}`],
    ["rtt", "Round trip", milliseconds(roundTrip)],
    ["mode", "Mode", `WebRTC over ${way || "?"}${codecs && `, ${codecs}`}`],
  ];
}
