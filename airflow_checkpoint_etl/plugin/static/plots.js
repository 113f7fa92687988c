// Three drawings in SVG: how far the stages are, rows over time, and the same as a sparkline.

import { C, h } from "./host.js";
import { compact, number, time } from "./words.js";

const STAGES = ["extract", "transform", "load"];
const COLOURS = {
  extract: "var(--chakra-colors-purple-solid, #805ad5)",
  transform: "var(--chakra-colors-cyan-solid, #0891b2)",
  load: "var(--chakra-colors-green-solid, #16a34a)",
};

const percent = (share) => `${Math.round(share * 100)} %`;

/** The share of the newest run that a stage has done; a stage that is not known stands where it is loaded. */
const shareOf = (stage) => Math.max(0, Math.min(1, stage.share ?? 0));

/** Three thin bars, one per stage, for a row of a table. */
export function StageBars({ stages }) {
  const words = STAGES.map((name) => {
    const stage = stages.find((one) => one.stage === name);
    return `${name} ${stage?.share === null ? "unknown" : percent(shareOf(stage))}`;
  });
  return h(
    C.VStack,
    { gap: "2px", align: "stretch", minW: "120px", role: "img", "aria-label": words.join(", "), title: words.join("\n") },
    STAGES.map((name) => {
      const stage = stages.find((one) => one.stage === name);
      return h(
        C.Box,
        { key: name, bg: "bg.emphasized", borderRadius: "full", h: "5px", overflow: "hidden" },
        h(C.Box, { h: "100%", style: { background: COLOURS[name], width: `${shareOf(stage) * 100}%` } }),
      );
    }),
  );
}

/** The three frontiers on one axis, from where the run began to the settled bound. */
export function Frontiers({ stages, low, target }) {
  return h(
    C.Box,
    null,
    h(
      C.VStack,
      { align: "stretch", gap: 2 },
      STAGES.map((name) => {
        const stage = stages.find((one) => one.stage === name);
        const known = stage.share !== null;
        const at = stage.position ? stage.position.shown : "unknown";
        return h(
          C.HStack,
          { key: name, gap: 3 },
          h(C.Text, { fontSize: "sm", w: "80px" }, name),
          h(
            C.Box,
            {
              bg: "bg.emphasized", borderRadius: "sm", flex: 1, h: "18px", overflow: "hidden",
              role: "progressbar", "aria-label": `${name} at ${at}`,
              "aria-valuemin": 0, "aria-valuemax": 100,
              "aria-valuenow": known ? Math.round(shareOf(stage) * 100) : undefined,
            },
            h(C.Box, {
              h: "100%",
              style: { background: COLOURS[name], transition: "width 0.6s", width: `${shareOf(stage) * 100}%` },
            }),
          ),
          h(
            C.Text,
            { fontSize: "sm", fontVariantNumeric: "tabular-nums", minW: "160px", textAlign: "end" },
            known ? `${at} · ${percent(shareOf(stage))}` : at,
          ),
        );
      }),
    ),
    h(
      C.HStack,
      { justify: "space-between", mt: 2, pl: "92px", pr: "172px" },
      h(C.Text, { color: "fg.muted", fontSize: "xs" }, `the run began at ${low}`),
      h(C.Text, { color: "fg.muted", fontSize: "xs" }, `settled bound ${target}`),
    ),
  );
}

/** Rows loaded over time, as bars. */
export function Throughput({ buckets, seconds }) {
  const [width, height, foot] = [800, 140, 18];
  const most = Math.max(1, ...buckets.map((bucket) => bucket.rows));
  const step = width / Math.max(1, buckets.length);
  const total = buckets.reduce((sum, bucket) => sum + bucket.rows, 0);
  const words = `${number(total)} rows loaded from ${time(buckets[0]?.start)} on; at most ${number(most)} rows in ${seconds} s`;
  return h(
    "svg",
    {
      viewBox: `0 0 ${width} ${height}`, width: "100%", height, role: "img", "aria-label": words,
      preserveAspectRatio: "none", style: { display: "block" },
    },
    h("title", null, words),
    buckets.map((bucket, place) => {
      const tall = (bucket.rows / most) * (height - foot - 4);
      return h(
        "rect",
        {
          key: bucket.start, x: place * step + step * 0.1, width: step * 0.8,
          y: height - foot - tall, height: Math.max(tall, bucket.rows ? 1.5 : 0), fill: COLOURS.load,
        },
        h("title", null, `${time(bucket.start)}: ${number(bucket.rows)} rows in ${bucket.chunks} chunk(s)`),
      );
    }),
    h("line", { x1: 0, x2: width, y1: height - foot, y2: height - foot, stroke: "currentColor", opacity: 0.25 }),
  );
}

/** The same, small, for a row of a table. */
export function Sparkline({ values }) {
  const [width, height] = [100, 24];
  if (!values?.length || !values.some(Boolean)) return h(C.Text, { color: "fg.subtle" }, "–");
  const most = Math.max(...values);
  const at = (value, place) =>
    `${(place / Math.max(1, values.length - 1)) * width},${height - 1 - (value / most) * (height - 3)}`;
  return h(
    "svg",
    { width, height, role: "img", "aria-label": `rows loaded lately, at most ${compact(most)} in one span` },
    h("polyline", { fill: "none", points: values.map(at).join(" "), stroke: COLOURS.load, strokeWidth: 1.5 }),
  );
}
