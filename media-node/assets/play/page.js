// Plays one live stream, or one file, of the application that this page is below. What it plays is in its address:
// ?id=STREAM, ?id=FILE.mp4 (or streams/FILE.mp4), or ?id=STREAM&vod=FILE.mp4; ?protocol=webrtc or hls allows a live stream that one only.
//
// Text from the address or the network is only ever set as text.

import { pauses } from "./pauses.js";
import { list } from "./statistics.js";
import * as whep from "./whep.js";

const STREAM = /^[A-Za-z0-9_.-]{1,253}$/;
const FILE = /^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,300}\.mp4$/;

/** Longest wait for the answer to a look, in milliseconds: longer than a server makes a player wait for a part. */
const LOOK = 15_000;
/** Playback that stands still for so many seconds is begun anew. */
const STANDSTILL = 12;
/** The controls hide so many milliseconds after the last touch of anything. */
const IDLE = 3_000;
/** Of how many seconds the bitrate is. */
const BITRATE_SPAN = 10;
const SEEK_STEP = 5;

const at = (id) => document.getElementById(id);
const video = at("video");

/** What is played now: `latency()` and `rows()` for the statistics, `progress()`, `toLive()`, `stop()`; null between two. */
let playing = null;

// ---- what the page shows

function show(state, message = "") {
  document.documentElement.dataset.state = state;
  if (at("message").textContent !== message) at("message").textContent = message;
}

function clock(seconds) {
  const whole = Math.floor(Number.isFinite(seconds) ? seconds : 0);
  const pad = (number) => String(number).padStart(2, "0");
  const hours = Math.floor(whole / 3600);
  return `${hours ? `${hours}:` : ""}${pad(Math.floor(whole / 60) % 60)}:${pad(whole % 60)}`;
}

function statistics() {
  const { buffered, currentTime } = video;
  let ahead = 0;
  for (let range = 0; range < buffered.length; range += 1) {
    if (buffered.start(range) <= currentTime && currentTime <= buffered.end(range)) ahead = buffered.end(range) - currentTime;
  }
  const frames = video.getVideoPlaybackQuality?.() ?? { totalVideoFrames: 0, droppedVideoFrames: 0 };
  const latency = playing?.latency() ?? null;
  return [
    ["latency", "Latency", latency === null || Number.isNaN(latency) ? "unknown" : `${latency.toFixed(2)} s`],
    ...(video.srcObject ? [] : [["buffer", "Buffer", `${ahead.toFixed(2)} s`]]),
    ["frames", "Frames", `${frames.totalVideoFrames}, ${frames.droppedVideoFrames} dropped`],
    ["resolution", "Resolution", video.videoWidth ? `${video.videoWidth} × ${video.videoHeight}` : "none"],
    ...(playing?.rows() ?? []),
  ];
}

function showStatistics() {
  if (!at("stats").hidden) list(at("rows"), statistics());
}

// ---- players of live streams, the best one first

/**
 * `look(id, isWaiting)` finds out what the stream `is`: "live", "off" or "ended"; "full" or "unreachable", which a `retryAfter` goes with; or
 * "unfit" for this player. `isHeld` says that to look again is to wait. `start` plays what was found, until it ends with "ended" (of the stream), "lost" (begin anew), "blocked" (by the
 * network) or "unfit" (this browser cannot decode it, or this player not show it).
 */
const PLAYERS = [
  {
    protocol: "webrtc",
    works: () => Boolean(globalThis.RTCPeerConnection),
    look: (id, isWaiting) => whep.look(`whep/${id}`, isWaiting),
    start: (found, end) => whep.start(found, video, onConnection, end),
  },
  { protocol: "hls", works: () => Boolean(globalThis.Hls?.isSupported()), look: lookForPlaylist, start: startHlsJs },
  {
    protocol: "hls",
    works: () => video.canPlayType("application/vnd.apple.mpegurl") !== "",
    look: lookForPlaylist,
    start: startNativeHls,
  },
];

function onConnection(state) {
  if (state === "broken") show("lost", "The connection was lost. Trying again.");
  else if (state === "still") show("buffering");
  else show(video.paused ? "paused" : "playing");
}

function startHlsJs({ url }, end) {
  const { Events, ErrorTypes, ErrorDetails } = Hls;
  // Parts need no work but to be appended, so no worker; the distance to the live edge is what the playlist asks for, and what is
  // lost to a stall is made up for by playing 5 % faster, which is not heard.
  const hls = new Hls({
    lowLatencyMode: true,
    enableWorker: false,
    backBufferLength: 30,
    liveDurationInfinity: true,
    maxLiveSyncPlaybackRate: 1.05,
  });
  const loaded = [];
  let wasRepaired = false;
  let details = null;
  hls.on(Events.ERROR, (_name, error) => {
    if (!error.fatal) return;
    const isUnfit =
      error.details === ErrorDetails.MANIFEST_INCOMPATIBLE_CODECS_ERROR || error.details === ErrorDetails.BUFFER_ADD_CODEC_ERROR;
    if (error.type === ErrorTypes.MEDIA_ERROR && !isUnfit && !wasRepaired) {
      wasRepaired = true;
      hls.recoverMediaError();
    } else {
      end(isUnfit ? "unfit" : "lost");
    }
  });
  hls.on(Events.LEVEL_LOADED, (_name, level) => {
    details = level.details;
  });
  hls.on(Events.FRAG_BUFFERED, (_name, { frag, part }) => {
    const media = part ?? frag;
    loaded.push({ seconds: media.duration, bytes: media.stats.loaded });
    let seconds = loaded.reduce((sum, one) => sum + one.seconds, 0);
    while (seconds > BITRATE_SPAN && loaded.length > 1) seconds -= loaded.shift().seconds;
  });
  hls.loadSource(url);
  hls.attachMedia(video);
  return {
    progress: () => video.currentTime,
    latency: () => (hls.playingDate ? (Date.now() - hls.playingDate) / 1000 : null),
    rows: () => {
      const seconds = loaded.reduce((sum, one) => sum + one.seconds, 0);
      const bytes = loaded.reduce((sum, one) => sum + one.bytes, 0);
      const rows = [["bitrate", "Bitrate", seconds > 0 ? `${Math.round((bytes * 8) / seconds / 1000)} kbit/s` : "unknown"]];
      if (details?.partTarget && hls.lowLatencyMode) {
        rows.push(["mode", "Mode", `LL-HLS, parts of ${details.partTarget} s, ${details.partHoldBack} s from live`]);
      } else {
        rows.push(["mode", "Mode", "HLS"]);
      }
      return rows;
    },
    toLive: () => {
      if (hls.liveSyncPosition !== null) video.currentTime = hls.liveSyncPosition;
    },
    stop: () => hls.destroy(),
  };
}

function startNativeHls({ url }, end) {
  const failed = () => end(video.error?.code === MediaError.MEDIA_ERR_DECODE ? "unfit" : "lost");
  video.addEventListener("error", failed);
  video.src = url;
  return {
    progress: () => video.currentTime,
    latency: () => {
      const start = video.getStartDate?.().getTime() ?? NaN;
      return Number.isNaN(start) ? null : (Date.now() - start) / 1000 - video.currentTime;
    },
    rows: () => [["mode", "Mode", "HLS of the browser"]],
    toLive: () => {
      const { seekable } = video;
      if (seekable.length > 0) video.currentTime = seekable.end(seekable.length - 1);
    },
    stop: () => {
      video.removeEventListener("error", failed);
      video.removeAttribute("src");
      video.load();
    },
  };
}

// ---- live

async function get(url) {
  const answer = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(LOOK) });
  return { answer, text: await answer.text() };
}

/** Whether the stream is live: a playlist stays for a while after its end. */
async function lookForPlaylist(id) {
  const url = new URL(`streams/${id}.m3u8`, document.baseURI).href;
  try {
    let { answer, text } = await get(url);
    const variant = text.split("\n").find((line) => line.trim() !== "" && !line.startsWith("#"));
    if (answer.ok && variant) ({ answer, text } = await get(new URL(variant.trim(), answer.url)));
    if (answer.ok) return { is: text.includes("#EXT-X-ENDLIST") ? "ended" : "live", url };
    const retryAfter = Number(answer.headers.get("retry-after")) || 0;
    return { is: answer.status === 404 ? "off" : "unreachable", retryAfter };
  } catch {
    return { is: "unreachable" };
  }
}

async function watchLive(id) {
  const asked = new URLSearchParams(location.search).get("protocol");
  const players = PLAYERS.filter(({ protocol, works }) => (asked === null || asked === protocol) && works());
  if (players.length === 0) return show("invalid", "This browser cannot play live streams.");
  at("live").hidden = false;
  /** Those that cannot play it as it is now, and those that the network keeps from it. */
  const [unfit, blocked] = [new Set(), new Set()];
  addEventListener("online", () => blocked.clear());
  const pause = pauses();
  let wasPlayed = false;
  let isWaiting = false;
  let misses = 0;
  for (;;) {
    const left = players.filter((player) => !unfit.has(player) && !blocked.has(player));
    const player = left[0] ?? players.at(-1);
    const found = await player.look(id, isWaiting);
    let { is } = found;
    if (is === "live") {
      show("loading");
      is = await play(player, found, () => {
        wasPlayed = true;
        misses = 0;
        pause.reset();
      });
    }
    // a server that starts again answers offers of a moment ago, too
    if (is === "blocked" && wasPlayed && (misses += 1) < 2) is = "lost";
    isWaiting = is === "off";
    if (is === "unfit" || (is === "full" && left.length > 1)) unfit.add(player);
    else if (is === "blocked") blocked.add(player);
    else if (is === "ended" || is === "off") unfit.clear();
    if (left.length > 1 && (unfit.has(player) || blocked.has(player))) continue;
    say(is, wasPlayed);
    // the server waits in our place, or the next session is there already
    if (found.isHeld || (found.session && is === "ended")) continue;
    await pause.wait(found.retryAfter);
  }
}

/** Says why nothing is played. */
function say(is, wasPlayed) {
  const ended = ["ended", "The stream has ended. It goes on here when it is on air again."];
  const [state, message] = {
    ended,
    off: wasPlayed ? ended : ["off", "The stream is off. It starts here by itself."],
    full: ["full", "The server has no room for more viewers. Trying again."],
    unreachable: ["lost", "The server cannot be reached. Trying again."],
    lost: ["lost", "The connection was lost. Trying again."],
    blocked: ["lost", "The network lets no WebRTC through. Trying again."],
    unfit: ["unfit", "This browser cannot play the stream."],
  }[is];
  show(state, message);
}

/** Plays until the stream ends or the player gives up. */
async function play(player, found, onPlaying) {
  const events = new AbortController();
  let wasAt = -1;
  let still = 0;
  const outcome = await new Promise((end) => {
    const on = (name, listener) => video.addEventListener(name, listener, { signal: events.signal });
    on("playing", () => {
      show("playing");
      onPlaying();
    });
    on("waiting", () => show("buffering"));
    on("ended", () => end("ended"));
    playing = player.start(found, end);
    begin();
    const watch = setInterval(() => {
      const isAt = playing.progress();
      still = video.paused || isAt !== wasAt ? 0 : still + 1;
      wasAt = isAt;
      if (still >= STANDSTILL) end("lost");
    }, 1000);
    events.signal.addEventListener("abort", () => clearInterval(watch));
  });
  events.abort();
  playing.stop();
  playing = null;
  return outcome;
}

/** Starts playback, which browsers allow without a click as long as it is silent. */
function begin() {
  video.play().catch((error) => {
    if (error.name === "NotAllowedError") show("paused", "Press play.");
  });
}

// ---- files

async function watchFile(file) {
  const url = new URL(`streams/${file}`, document.baseURI).href;
  const pause = pauses();
  at("seeking").hidden = false;
  document.documentElement.dataset.kind = "file";
  let from = 0;
  for (;;) {
    const error = await playFile(url, from, pause.reset);
    from = video.currentTime || from;
    if (error === MediaError.MEDIA_ERR_DECODE) return show("unfit", "This browser cannot decode the recording.");
    const found = await fetch(url, { method: "HEAD", redirect: "manual", signal: AbortSignal.timeout(LOOK) }).catch(() => null);
    const retryAfter = Number(found?.headers.get("retry-after")) || 0;
    if (found?.status === 404 && retryAfter > 0) {
      show("off", "The recording is not ready yet. It starts here by itself.");
    } else if (found?.status === 404 || found?.status === 410) {
      return show("off", "There is no such recording.");
    } else if (found?.ok) {
      return show("unfit", "This browser cannot decode the recording.");
    } else {
      show("lost", "The server cannot be reached. Trying again.");
    }
    await pause.wait(retryAfter);
  }
}

/** Plays a file; returns the code of the error that stops it. */
async function playFile(url, from, onPlaying) {
  const events = new AbortController();
  const code = await new Promise((end) => {
    const on = (name, listener) => video.addEventListener(name, listener, { signal: events.signal });
    on("playing", () => {
      show("playing");
      onPlaying();
    });
    on("waiting", () => show("buffering"));
    on("ended", () => show("ended", "The end."));
    on("seeking", () => show("buffering"));
    on("seeked", () => show(video.paused ? "paused" : "playing"));
    on("error", () => end(video.error?.code ?? 0));
    on("loadedmetadata", () => {
      at("position").max = String(video.duration);
      if (from > 0) video.currentTime = from;
    });
    on("timeupdate", showPosition);
    video.src = url;
    playing = { latency: () => null, rows: () => [["mode", "Mode", "file"]], toLive: () => {}, stop: () => {} };
    begin();
  });
  events.abort();
  playing = null;
  return code;
}

function showPosition() {
  const text = `${clock(video.currentTime)} / ${clock(video.duration)}`;
  at("time").textContent = text;
  at("position").value = String(video.currentTime);
  at("position").setAttribute("aria-valuetext", text);
}

function seek(to) {
  if (Number.isFinite(video.duration)) video.currentTime = Math.min(Math.max(to, 0), video.duration);
}

// ---- controls

function togglePlay() {
  if (!video.paused && !video.ended) return video.pause();
  if (Number.isFinite(video.duration) || !playing) return begin();
  // who comes back to a live stream wants to see what is now
  playing.toLive();
  begin();
}

function toggleSound() {
  video.muted = !video.muted;
}

function toggleStatistics() {
  at("stats").hidden = !at("stats").hidden;
  at("numbers").setAttribute("aria-pressed", String(!at("stats").hidden));
  showStatistics();
}

function toggleFull() {
  if (document.fullscreenElement) return document.exitFullscreen();
  // phones show the video alone
  return at("player").requestFullscreen ? at("player").requestFullscreen().catch(() => {}) : video.webkitEnterFullscreen?.();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const onButton = event.target instanceof HTMLButtonElement || event.target instanceof HTMLAnchorElement;
  const keys = {
    " ": onButton ? null : togglePlay,
    k: togglePlay,
    m: toggleSound,
    f: toggleFull,
    s: toggleStatistics,
    ArrowLeft: () => seek(video.currentTime - SEEK_STEP),
    ArrowRight: () => seek(video.currentTime + SEEK_STEP),
  };
  const act = Object.hasOwn(keys, event.key) ? keys[event.key] : null;
  if (!act) return;
  event.preventDefault();
  act();
}

function addControls() {
  at("play").addEventListener("click", togglePlay);
  at("sound").addEventListener("click", toggleSound);
  at("numbers").addEventListener("click", toggleStatistics);
  at("full").addEventListener("click", toggleFull);
  at("position").addEventListener("input", () => seek(Number(at("position").value)));
  at("unmute").addEventListener("click", toggleSound);
  const showPaused = () => {
    document.documentElement.dataset.paused = String(video.paused);
    at("play").setAttribute("aria-label", video.paused ? "Play" : "Pause");
  };
  video.addEventListener("play", showPaused);
  video.addEventListener("pause", showPaused);
  const showMuted = () => {
    at("sound").setAttribute("aria-pressed", String(!video.muted));
    // it is offered until it has been found
    if (video.muted) at("unmute").hidden = at("unmute").dataset.found === "true";
    else [at("unmute").hidden, at("unmute").dataset.found] = [true, "true"];
  };
  video.addEventListener("volumechange", showMuted);
  showMuted();
  document.addEventListener("fullscreenchange", () => {
    at("full").setAttribute("aria-pressed", String(document.fullscreenElement !== null));
  });
  at("full").hidden = !at("player").requestFullscreen && !video.webkitEnterFullscreen;
  document.addEventListener("keydown", onKey);
  hideWhenIdle();
  setInterval(showStatistics, 500);
}

/** Takes the controls away while a picture is watched. A touch brings them back first; a click of a mouse acts at once. */
function hideWhenIdle() {
  const { classList } = at("player");
  let timer = 0;
  let wasIdle = false;
  const stir = () => {
    classList.remove("idle");
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (document.documentElement.dataset.state === "playing" && !video.paused) classList.add("idle");
      else stir();
    }, IDLE);
  };
  at("player").addEventListener("pointerdown", ({ pointerType }) => {
    wasIdle = pointerType === "touch" && classList.contains("idle");
    stir();
  });
  for (const name of ["pointermove", "keydown", "focusin"]) document.addEventListener(name, stir);
  video.addEventListener("click", () => {
    if (!wasIdle) togglePlay();
  });
  stir();
}

// ---- what to play

function asked() {
  const query = new URLSearchParams(location.search);
  const id = query.get("id") ?? "";
  const file = query.get("vod") ?? (id.endsWith(".mp4") ? id : null);
  return { title: id || (file ?? ""), id, file: file === null ? null : file.replace(/^streams\//, "") };
}

function start() {
  const { title, id, file } = asked();
  addControls();
  at("title").textContent = title;
  document.title = title || "Player";
  if (title === "") return show("invalid", "Nothing to play: the address of this page ends with ?id=STREAM.");
  if (file !== null) {
    return FILE.test(file) ? watchFile(file) : show("invalid", `“${file}” is not the name of a recording.`);
  }
  return STREAM.test(id) ? watchLive(id) : show("invalid", `“${id}” is not the id of a stream.`);
}

await start();
