// Publishes a camera or a screen, and a microphone, as one live stream of the application that this page is below (WHIP). The stream is in
// its address, ?id=STREAM; its key is typed in, sent as a bearer token, and kept nowhere.
//
// Text from the address or the network is only ever set as text.

import { pauses } from "../play/pauses.js";
import { Refused, Session } from "../play/session.js";
import { bitrate, list, meter, milliseconds, percent, sum } from "../play/statistics.js";

const STREAM = /^[A-Za-z0-9_.-]{1,253}$/;
/** What is asked of a camera; a browser gives what comes nearest. */
const CAMERA = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 30 } };
const SCREEN = { frameRate: { ideal: 30 } };
/** The layers of simulcast, the largest first. */
const LAYERS = [
  { rid: "h", maxBitrate: 2_500_000 },
  { rid: "m", maxBitrate: 700_000, scaleResolutionDownBy: 2 },
  { rid: "l", maxBitrate: 200_000, scaleResolutionDownBy: 4 },
];
/** Recordings, HLS and RTMP players take this one; the others as the browser likes them. */
const USUAL_CODEC = "H264";
/** Not codecs of pictures, but helpers that go with each of them. */
const HELPERS = /^(rtx|red|ulpfec|flexfec-03)$/i;
/** For so long after a loss a server may still hold the connection that was lost, in milliseconds. */
const STALE = 60_000;

const at = (id) => document.getElementById(id);
const video = at("video");
const id = new URLSearchParams(location.search).get("id") ?? "";

/** What is captured: a track or null of each kind. */
const tracks = { video: null, audio: null };
/** Whether the picture is of a camera or a screen. */
let pictureOf = "camera";
/**
 * What is on air, or is to be: null, or `stop`, which ends the wish for it; `last`, the state and message that it leaves; and, while there
 * is a session, that one, the `measure` of its statistics, and `since` when.
 */
let publishing = null;

// ---- what the page shows

function show(state, message = "") {
  document.documentElement.dataset.state = state;
  if (at("message").textContent !== message) at("message").textContent = message;
  at("go").textContent = publishing ? "Stop" : "Go live";
  at("watch").hidden = state !== "live";
  lock();
}

/** What is on air has the kinds of tracks that it began with. */
function lock() {
  const isOn = publishing !== null;
  for (const name of ["key", "codec", "simulcast"]) at(name).disabled = isOn;
  for (const one of document.querySelectorAll('[name="source"]')) {
    one.disabled = isOn && (one.value === "none") === (tracks.video !== null);
  }
  at("microphone").disabled = isOn && tracks.audio === null;
  for (const option of at("microphone").options) option.disabled = isOn && option.value === "";
}

// ---- cameras, screens and microphones

const source = () => document.querySelector('[name="source"]:checked').value;

/** Why there is no track, in words for who is in front of the page. */
function excuse(error, thing) {
  switch (error.name) {
    case "NotAllowedError":
    case "SecurityError":
      return `The browser was not allowed to use the ${thing}. Allow it beside the address of this page, and try again.`;
    case "NotFoundError":
    case "OverconstrainedError":
      return `No ${thing} was found.`;
    case "NotReadableError":
    case "AbortError":
      return `The ${thing} cannot be used now: perhaps another program has it.`;
    default:
      return `The ${thing} cannot be used: ${error.message}`;
  }
}

const chosen = (select) => (select.value === "default" || select.value === "" ? {} : { deviceId: { exact: select.value } });

async function captureCamera() {
  return (await navigator.mediaDevices.getUserMedia({ video: { ...CAMERA, ...chosen(at("camera")) } })).getVideoTracks()[0];
}

async function captureScreen() {
  const [track] = (await navigator.mediaDevices.getDisplayMedia({ video: SCREEN })).getVideoTracks();
  track.contentHint = "detail";
  return track;
}

async function captureMicrophone() {
  return (await navigator.mediaDevices.getUserMedia({ audio: chosen(at("microphone")) })).getAudioTracks()[0];
}

/** Captures what is chosen, and puts it in the place of what was there, on air too; returns what is in the way. */
async function renew(kind) {
  const isPicture = kind === "video";
  const wanted = isPicture ? source() : at("microphone").value === "" ? "none" : "microphone";
  const capture = { camera: captureCamera, screen: captureScreen, microphone: captureMicrophone }[wanted];
  const before = tracks[kind];
  // phones have one camera at a time
  if (wanted === "camera" && pictureOf === "camera") before?.stop();
  let trouble = "";
  let track = null;
  try {
    track = (await capture?.()) ?? null;
  } catch (error) {
    trouble = excuse(error, wanted);
    // who chose no screen after all keeps what there was
    if (before?.readyState === "live") track = before;
  }
  tracks[kind] = track;
  if (isPicture && track === before && track) document.querySelector(`[name="source"][value="${pictureOf}"]`).checked = true;
  else if (isPicture) pictureOf = wanted;
  if (track !== before) {
    before?.stop();
    track?.addEventListener("ended", () => {
      if (tracks[kind] === track) lose(kind, wanted);
    });
    if (track) await replace(kind, track);
    else if (before && publishing) lose(kind, wanted);
  }
  if (isPicture) {
    video.srcObject = track && new MediaStream([track]);
    // as in a mirror, unless it is a screen or looks away from who holds it
    at("stage").classList.toggle("mirrored", pictureOf === "camera" && track?.getSettings().facingMode !== "environment");
  }
  return trouble;
}

/** A device was unplugged, or a screen is no longer shared: what is on air ends, rather than without its picture or sound. */
function lose(kind, thing) {
  tracks[kind] = null;
  if (kind === "video") video.srcObject = null;
  const message = thing === "screen" ? "The screen is no longer shared." : `The ${thing} is gone.`;
  if (!publishing) return show("trouble", message);
  publishing.last = ["trouble", message];
  publishing.stop();
}

async function openDevices() {
  at("allow").hidden = true;
  show("idle");
  const troubles = [await renew("video"), await renew("audio")].filter(Boolean);
  await listDevices();
  const hasNone = tracks.video === null && tracks.audio === null;
  at("allow").hidden = !hasNone;
  show(troubles.length > 0 ? "trouble" : "ready", troubles[0]);
  return !hasNone;
}

/** Browsers tell the devices' names once one of them may be used. */
async function listDevices() {
  const devices = await navigator.mediaDevices.enumerateDevices();
  for (const [select, kind, word] of [[at("camera"), "videoinput", "Camera"], [at("microphone"), "audioinput", "Microphone"]]) {
    const found = devices.filter((device) => device.kind === kind && device.deviceId !== "");
    const options = found.map((device, index) => new Option(device.label || `${word} ${index + 1}`, device.deviceId));
    if (found.length === 0) options.push(new Option(`The ${word.toLowerCase()}`, "default"));
    if (kind === "audioinput") options.push(new Option("No sound", ""));
    const track = tracks[kind === "videoinput" ? "video" : "audio"];
    const before = select.options.length > 0 ? select.value : null;
    select.replaceChildren(...options);
    const wanted = before === "" ? "" : (track?.getSettings().deviceId ?? before);
    if (options.some((option) => option.value === wanted)) select.value = wanted;
  }
  at("cameras").hidden = source() !== "camera";
  lock();
}

// ---- on air

/** What to do about a refusal: a message, and whether it is worth another try. */
function refusal({ status, retryAfter }, wasLive, hasKey) {
  const final = (message) => ({ message, isFinal: true });
  switch (status) {
    case 400:
      return final("The server does not understand what this browser offers.");
    case 401:
    case 403:
      return { ...final(hasKey ? "The stream key is wrong." : "This stream asks for its key."), isKey: true };
    case 404:
      return final("There is no such stream.");
    case 406:
      return final("The server takes none of the codecs that were offered. Choose another one under “More”.");
    case 409:
      return wasLive
        ? { message: "The server still holds the connection that was lost. Trying again." }
        : final("Somebody else is publishing this stream.");
    case 413:
    case 415:
    case 422:
      return final("The server does not take what this page sends. Load the page again.");
    case 501:
      return final("WebRTC is turned off at this server.");
    case 503:
      return { message: retryAfter > 1 ? `The server has no room now. Trying again in ${retryAfter} s.` : "The server has no room now. Trying again." };
    default:
      return { message: `The server cannot do it now (${status}). Trying again.` };
  }
}

async function publish() {
  const key = at("key").value;
  const pause = pauses();
  let stop;
  const stopped = new Promise((resolve) => {
    stop = () => resolve("stopped");
  });
  publishing = { stop, last: ["ready", ""], session: null, measure: null, since: 0 };
  const awake = await navigator.wakeLock?.request("screen").catch(() => null);
  at("key").removeAttribute("aria-invalid");
  show("connecting");
  let lostAt = -Infinity;
  for (;;) {
    const end = await once(key, stopped, () => {
      pause.reset();
      show("live");
    });
    if (end.state === "stopped") break;
    if (end.wasLive) lostAt = performance.now();
    const { message, isFinal, isKey } = end.refused ? refusal(end.refused, performance.now() - lostAt < STALE, key !== "") : end;
    if (isFinal) {
      publishing.last = ["refused", message];
      if (isKey) at("key").setAttribute("aria-invalid", "true");
      break;
    }
    show("lost", message);
    if ((await Promise.race([pause.wait(end.refused?.retryAfter), stopped])) === "stopped") break;
  }
  awake?.release();
  const [state, message] = publishing.last;
  publishing = null;
  show(state, message);
  if (at("key").ariaInvalid) at("key").focus();
  showStatistics();
}

/** One session, until it is over: in which `state`, with which `message` or refusal, and whether it was on air. */
async function once(key, stopped, onLive) {
  const connection = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
  const stream = new MediaStream();
  if (tracks.audio) connection.addTransceiver(tracks.audio, { direction: "sendonly", streams: [stream] });
  if (tracks.video) {
    const sendEncodings = at("simulcast").checked ? LAYERS.map((layer) => ({ ...layer })) : [{ maxBitrate: LAYERS[0].maxBitrate }];
    const transceiver = connection.addTransceiver(tracks.video, { direction: "sendonly", streams: [stream], sendEncodings });
    transceiver.setCodecPreferences?.(codecs());
  }
  let session;
  try {
    session = await Promise.race([Session.open(`whip/${id}`, connection, { key }), stopped]);
  } catch (error) {
    connection.close();
    if (error instanceof Refused) return { refused: error };
    const isNetwork = error instanceof TypeError || error.name === "TimeoutError";
    return { message: isNetwork ? "The server cannot be reached. Trying again." : `The browser cannot connect: ${error.message}` };
  }
  if (session === "stopped") {
    // an answer that comes yet finds the connection closed, and ends the session
    connection.close();
    return { state: session };
  }
  let wasLive = false;
  publishing.session = session;
  const over = new Promise((end) => {
    session.watch((state) => {
      if (state === "connected") {
        wasLive = true;
        publishing.measure ??= meter(connection);
        publishing.since ||= performance.now();
        onLive();
      } else if (state === "broken") {
        show("lost", "The connection was lost. Trying again.");
      } else {
        end(state);
      }
    });
  });
  const state = await Promise.race([over, stopped]);
  Object.assign(publishing, { session: null, measure: null });
  session.close();
  const message = {
    blocked: "The network lets no WebRTC through. Trying again.",
    ended: "The server has ended the connection. Trying again.",
    lost: "The connection was lost. Trying again.",
  }[state];
  return { state, message, wasLive };
}

/** Another track in the place of the one that is sent. */
async function replace(kind, track) {
  const sender = publishing?.session?.connection.getSenders().find((one) => one.track?.kind === kind);
  await sender?.replaceTrack(track);
}

/** The codec that was chosen and none else, so that a server which does not take it says so; or all, the usual one first. */
function codecs() {
  const all = RTCRtpSender.getCapabilities("video").codecs;
  const is = (name) => ({ mimeType }) => mimeType.toLowerCase() === `video/${name}`.toLowerCase();
  const wanted = at("codec").value;
  const helpers = all.filter(({ mimeType }) => HELPERS.test(mimeType.slice(6)));
  if (wanted !== "") return [...all.filter(is(wanted)), ...helpers];
  return [...all.filter(is(USUAL_CODEC)), ...all.filter((one) => !is(USUAL_CODEC)(one))];
}

function listCodecs() {
  const all = globalThis.RTCRtpSender?.getCapabilities?.("video")?.codecs ?? [];
  const names = new Set(all.map(({ mimeType }) => mimeType.slice(6)).filter((name) => !HELPERS.test(name)));
  at("codec").append(...[...names].sort().map((name) => new Option(name, name)));
}

// ---- statistics

async function showStatistics() {
  if (at("stats").hidden) return;
  const { measure, since } = publishing ?? {};
  if (!measure) return list(at("rows"), [["state", "State", "not on air"]]);
  const { sent, told, roundTrip, way } = await measure();
  const pictures = sent.filter((one) => one.kind === "video" && one.frameWidth);
  const layer = (one) => `${one.frameWidth} × ${one.frameHeight}, ${Math.round(one.framesPerSecond ?? 0)} fps, ${bitrate(one.bitsPerSecond)}`;
  const limits = new Set(pictures.map((one) => one.qualityLimitationReason).filter((reason) => reason && reason !== "none"));
  const seconds = Math.floor((performance.now() - since) / 1000);
  list(at("rows"), [
    ["time", "On air", `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`],
    ["bitrate", "Bitrate", bitrate(sum(sent, (one) => one.bitsPerSecond))],
    ...pictures.map((one) => [one.rid ? `layer-${one.rid}` : "picture", one.rid ? `Picture ${one.rid}` : "Picture", layer(one)]),
    ["loss", "Loss", told.length > 0 ? percent(Math.max(...told.map((one) => one.fractionLost ?? 0)), 1) : "unknown"],
    ["rtt", "Round trip", milliseconds(roundTrip)],
    ["limit", "Limited by", limits.size > 0 ? [...limits].join(", ") : "nothing"],
    ["mode", "Mode", `WebRTC over ${way || "?"}, ${[...new Set(sent.map((one) => one.codec).filter(Boolean))].join(", ")}`],
  ]);
}

function toggleStatistics() {
  at("stats").hidden = !at("stats").hidden;
  at("numbers").setAttribute("aria-pressed", String(!at("stats").hidden));
  showStatistics();
}

// ---- controls

let isStarting = false;

async function toggle() {
  if (publishing) return publishing.stop();
  if (isStarting) return;
  isStarting = true;
  const hasSome = tracks.video !== null || tracks.audio !== null || (await openDevices());
  isStarting = false;
  if (hasSome) await publish();
  else if (source() === "none") show("trouble", "There is neither a picture nor sound to publish.");
}

/** After a change of what is captured. */
async function change(kind) {
  at("cameras").hidden = source() !== "camera";
  const trouble = await renew(kind);
  await listDevices();
  if (publishing && trouble) at("message").textContent = trouble;
  else if (!publishing) show(trouble ? "trouble" : "ready", trouble);
}

function leave() {
  publishing?.session?.close();
  for (const track of Object.values(tracks)) track?.stop();
}

function addControls() {
  at("panel").addEventListener("submit", (event) => {
    event.preventDefault();
    toggle();
  });
  at("allow").addEventListener("click", openDevices);
  at("numbers").addEventListener("click", toggleStatistics);
  at("sources").addEventListener("change", () => change("video"));
  at("camera").addEventListener("change", () => change("video"));
  at("microphone").addEventListener("change", () => change("audio"));
  navigator.mediaDevices.addEventListener("devicechange", listDevices);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) toggle();
    else if (event.code === "KeyS" && event.altKey) toggleStatistics();
    else return;
    event.preventDefault();
  });
  addEventListener("pagehide", leave);
  // a page that is brought back from the browser's memory has stopped its tracks
  addEventListener("pageshow", ({ persisted }) => {
    if (persisted) location.reload();
  });
  setInterval(showStatistics, 1000);
}

async function start() {
  at("title").textContent = id;
  document.title = id ? `Publish ${id}` : "Publish";
  at("watch").href = `play?id=${encodeURIComponent(id)}`;
  const refuse = (message) => {
    for (const one of at("panel").elements) one.disabled = true;
    document.documentElement.dataset.state = "invalid";
    at("message").textContent = message;
  };
  if (!STREAM.test(id)) return refuse(id ? `“${id}” is not the id of a stream.` : "Nothing to publish: the address of this page ends with ?id=STREAM.");
  if (!navigator.mediaDevices?.getUserMedia) {
    return refuse(isSecureContext ? "This browser gives no camera to pages." : "Browsers give cameras and microphones to pages over HTTPS only. Open this page by an https:// address.");
  }
  if (!globalThis.RTCPeerConnection) return refuse("This browser has no WebRTC.");
  at("sources").querySelector('[value="screen"]').parentElement.hidden = !navigator.mediaDevices.getDisplayMedia;
  listCodecs();
  await listDevices();
  addControls();
  const isAllowed = async (name) => (await navigator.permissions?.query({ name }).catch(() => null))?.state === "granted";
  if ((await isAllowed("camera")) && (await isAllowed("microphone"))) return openDevices();
  at("allow").hidden = false;
  show("idle", "Look at it here first. Nobody else sees it before you go live.");
}

await start();
