/** Shortest and longest pause before something is tried again, in seconds; it doubles from one to the other. */
const PAUSE = { least: 1, most: 10 };
/** A server may ask for longer pauses, up to this. */
const LONGEST_RETRY_AFTER = 60;

/** Pauses that grow, each a little different, so that those who wait for one thing do not come back all at once. */
export function pauses() {
  let next = PAUSE.least;
  return {
    reset: () => {
      next = PAUSE.least;
    },
    wait: (atLeast = 0) => {
      const pause = Math.max(next * (0.8 + 0.4 * Math.random()), Math.min(atLeast, LONGEST_RETRY_AFTER));
      next = Math.min(next * 2, PAUSE.most);
      return new Promise((resolve) => setTimeout(resolve, pause * 1000));
    },
  };
}
