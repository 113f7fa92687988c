// Numbers, times and lengths for people, by the browser's own formats.

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const BYTES = ["B", "KiB", "MiB", "GiB", "TiB"];

export const number = (value) => (value === null || value === undefined ? "–" : whole.format(value));

export const compact = (value) =>
  value === null || value === undefined ? "–" : short.format(value);

export const time = (text) => (text ? moment.format(new Date(text)) : "–");

export const speed = (value) => (value ? `${compact(value)} rows/s` : "–");

/** 1536 -> "1.5 KiB". */
export function bytes(value) {
  let [left, unit] = [value ?? 0, 0];
  while (left >= 1024 && unit < BYTES.length - 1) [left, unit] = [left / 1024, unit + 1];
  return `${left < 10 && unit ? left.toFixed(1) : Math.round(left)} ${BYTES[unit]}`;
}

/** 3905 -> "1 h 5 min". */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  const rounded = Math.round(seconds);
  if (rounded < 60) return `${rounded} s`;
  const units = [["d", 86400], ["h", 3600], ["min", 60]];
  const first = units.findIndex(([, size]) => rounded >= size);
  const [name, size] = units[first];
  const next = units[first + 1];
  const rest = next ? Math.floor((rounded % size) / next[1]) : 0;
  return `${Math.floor(rounded / size)} ${name}${rest ? ` ${rest} ${next[0]}` : ""}`;
}

const CONDITIONS = {
  working: ["working", "blue"],
  waiting: ["waiting", "yellow"],
  caught_up: ["caught up", "green"],
  failed: ["failed, retrying", "orange"],
  stuck: ["stuck", "red"],
  idle: ["idle", "gray"],
};

/** A condition's name and colour; the name says it too, so that the colour is never needed. */
export const condition = (name) => CONDITIONS[name] ?? [name, "gray"];

export const laneName = ({ pipeline, part }) =>
  part === "default" ? pipeline : `${pipeline} [${part}]`;
