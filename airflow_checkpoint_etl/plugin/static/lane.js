// One lane: where its three stages are, how fast it loads, its chunks, its quarantine, its history.

import { Actions } from "./actions.js";
import { useData } from "./api.js";
import { C, h, taskPath, useState } from "./host.js";
import { Empty, Figure, Loading, Problem, Rows, Section, StateLine, To, Warnings } from "./parts.js";
import { Frontiers, Throughput } from "./plots.js";
import { bytes, compact, laneName, number, span, speed, time } from "./words.js";

const SLOW_MS = 5000;

export function LanePage({ lane }) {
  const key = { warehouse: lane.warehouse_conn_id, pipeline: lane.pipeline, part: lane.part };
  const { data, error, isLoading, refresh } = useData("lane", key);
  return h(
    C.Box,
    { p: 6, maxW: "1400px" },
    h(To, { to: "/plugin/checkpoints", fontSize: "sm" }, "← All pipelines"),
    h(C.Heading, { as: "h1", size: "xl", mt: 1, mb: 3 }, laneName(lane)),
    h(Problem, { error }),
    isLoading && h(Loading),
    data && h(Lane, { insight: data, lane: key, refresh }),
  );
}

function Lane({ insight, lane, refresh }) {
  const { summary } = insight;
  return h(
    C.Box,
    null,
    h(C.Box, { mb: 5 }, h(StateLine, { state: summary.state })),
    h(Warnings, { texts: insight.faults }),
    h(
      C.SimpleGrid,
      { columns: { base: 2, md: 3, xl: 6 }, gap: 3, mb: 8 },
      h(Figure, { label: "Last id loaded", value: summary.position.shown, note: time(summary.position.updated_at) }),
      h(Figure, { label: "Rows loaded", value: compact(summary.position.rows), note: `generation ${summary.generation}` }),
      h(Figure, { label: "Speed", value: speed(summary.rows_per_second), note: "over the last chunks" }),
      h(Figure, {
        label: "Lag",
        value: span(summary.lag.seconds),
        note: summary.lag.ids > 0 ? `${number(summary.lag.ids)} ids to go` : "since the newest bound that is loaded",
      }),
      h(Figure, { label: "Staged", value: bytes(insight.staged_bytes), note: "not loaded yet" }),
      h(Figure, { label: "Quarantine", value: summary.quarantined.shown, note: "records" }),
    ),
    h(
      Section,
      { title: "Stages" },
      h(Frontiers, { stages: summary.stages, low: insight.runs[0]?.low_shown ?? "the beginning", target: summary.target_shown || "not settled yet" }),
      h(C.Box, { mt: 5 }, h(Stages, { stages: summary.stages })),
    ),
    h(Section, { title: "Rows loaded, last 24 hours" }, h(LaneThroughput, { lane })),
    h(Section, { title: "Chunks" }, h(Chunks, { lane })),
    h(Section, { title: "Quarantine" }, h(Quarantine, { quarantine: insight.quarantine })),
    h(Section, { title: "History" }, h(Events, { events: insight.events })),
    h(Section, { title: "Guarantee" }, h(Guarantee, { text: summary.guarantee, settings: insight.settings })),
    insight.may_act && h(Section, { title: "Actions" }, h(Actions, { lane, insight, refresh })),
  );
}

const owner = (stage) =>
  stage.owner
    ? h(
        C.Box,
        null,
        h(To, { to: taskPath(stage.owner) }, stage.owner.task),
        h(C.Text, { color: "fg.muted", fontSize: "xs" }, `try ${stage.owner.try_number}, ${lease(stage)}`),
      )
    : "–";

function lease(stage) {
  if (stage.lease_seconds > 0) return `lease runs ${span(stage.lease_seconds)} more`;
  return stage.lease_seconds < 0 ? `lease ran out ${span(-stage.lease_seconds)} ago` : "given back";
}

const Stages = ({ stages }) =>
  h(Rows, {
    label: "Stages",
    keyOf: (stage) => stage.stage,
    rows: stages,
    columns: [
      { title: "Stage", cell: (stage) => stage.stage },
      { title: "State", cell: (stage) => h(StateLine, { state: stage.state }) },
      { title: "Chunk", isNumber: true, cell: (stage) => number(stage.position?.seq) },
      { title: "Last id", isNumber: true, cell: (stage) => stage.position?.shown ?? "–" },
      { title: "Speed", isNumber: true, cell: (stage) => speed(stage.rows_per_second) },
      { title: "Staged", isNumber: true, cell: (stage) => (stage.staged_chunks ? `${number(stage.staged_chunks)} chunks, ${bytes(stage.staged_bytes)}` : "–") },
      { title: "Task", cell: owner },
    ],
  });

function LaneThroughput({ lane }) {
  const { data, error, isLoading } = useData("lane/throughput", lane, SLOW_MS);
  if (isLoading) return h(Loading);
  if (!data) return h(Problem, { error });
  if (!data.buckets.some((bucket) => bucket.rows)) return h(C.Text, { color: "fg.muted" }, "Nothing was loaded in this time.");
  return h(
    C.Box,
    null,
    h(Throughput, { buckets: data.buckets, seconds: data.bucket_seconds }),
    h(
      C.HStack,
      { justify: "space-between" },
      h(C.Text, { color: "fg.muted", fontSize: "xs" }, time(data.buckets[0].start)),
      h(C.Text, { color: "fg.muted", fontSize: "xs" }, `one bar is ${span(data.bucket_seconds)}`),
      h(C.Text, { color: "fg.muted", fontSize: "xs" }, "now"),
    ),
  );
}

const CHUNK_COLUMNS = [
  { title: "Chunk", isNumber: true, cell: (chunk) => number(chunk.seq) },
  { title: "Ids", cell: (chunk) => (chunk.is_sweep ? `late rows at or below ${chunk.high_shown}` : `(${chunk.low_shown}, ${chunk.high_shown}]`) },
  { title: "Rows", isNumber: true, cell: (chunk) => number(chunk.rows) },
  { title: "Rejected", isNumber: true, cell: (chunk) => (chunk.rejected ? number(chunk.rejected) : "–") },
  { title: "Loaded", cell: (chunk) => time(chunk.loaded_at) },
  { title: "Took", isNumber: true, cell: (chunk) => span(chunk.seconds) },
  { title: "By", cell: (chunk) => h(To, { to: taskPath(chunk) }, `${chunk.dag_id}.${chunk.task_id}, try ${chunk.try_number}`) },
];

export const ChunkTable = ({ chunks }) =>
  h(Rows, { label: "Chunks", columns: CHUNK_COLUMNS, rows: chunks, keyOf: (chunk) => chunk.ledger_id });

function Chunks({ lane }) {
  const [pages, setPages] = useState([]);
  const before = pages.at(-1);
  const { data, error, isLoading } = useData("lane/chunks", { ...lane, before, limit: 10 });
  if (isLoading) return h(Loading);
  if (!data) return h(Problem, { error });
  if (!data.items.length) return h(C.Text, { color: "fg.muted" }, "No chunk is loaded yet.");
  return h(
    C.Box,
    null,
    h(ChunkTable, { chunks: data.items }),
    h(
      C.HStack,
      { mt: 3 },
      h(C.Button, { size: "xs", variant: "outline", disabled: !pages.length, onClick: () => setPages(pages.slice(0, -1)) }, "Newer"),
      h(C.Button, { size: "xs", variant: "outline", disabled: !data.next_token, onClick: () => setPages([...pages, data.next_token]) }, "Older"),
    ),
  );
}

function Quarantine({ quarantine }) {
  if (!quarantine.total.number) return h(C.Text, { color: "fg.muted" }, "No record was rejected.");
  return h(Rows, {
    label: "Quarantine by reason",
    keyOf: (reason) => `${reason.stage}/${reason.reason}`,
    rows: quarantine.reasons,
    columns: [
      { title: "Reason", cell: (reason) => reason.reason },
      { title: "Rejected by", cell: (reason) => reason.stage },
      { title: "Records", isNumber: true, cell: (reason) => number(reason.count) },
      { title: "Newest id", isNumber: true, cell: (reason) => reason.newest_shown || "–" },
      { title: "Newest", cell: (reason) => time(reason.newest_at) },
    ],
  });
}

function Events({ events }) {
  if (!events.length) return h(C.Text, { color: "fg.muted" }, "Nobody has rewound, reset, resynced or released this lane, and no attempt was fenced.");
  return h(Rows, {
    label: "History",
    keyOf: (event) => event.id,
    rows: events,
    columns: [
      { title: "When", cell: (event) => time(event.created_at) },
      { title: "What", cell: (event) => event.kind },
      { title: "Who", cell: (event) => event.actor },
      { title: "Why", cell: (event) => event.reason || "–" },
    ],
  });
}

const SETTINGS = {
  source: "Source", cursor: "Cursor", settle: "Settle", target: "Target", write: "Write", key: "Key",
  checkpoint_conn_id: "Checkpoints in", staging: "Staging area", on_error: "On error",
};

function Guarantee({ text, settings }) {
  const shown = Object.entries(SETTINGS).filter(([name]) => settings[name] !== undefined && String(settings[name]));
  return h(
    C.Box,
    null,
    h(C.Text, { mb: 4, maxW: "100ch" }, text || "Computed when extract runs for the first time."),
    h(
      C.DataList.Root,
      { orientation: "horizontal", size: "sm" },
      shown.map(([name, label]) =>
        h(
          C.DataList.Item,
          { key: name },
          h(C.DataList.ItemLabel, null, label),
          h(C.DataList.ItemValue, null, [settings[name]].flat().join(", ")),
        ),
      ),
    ),
  );
}

export const NoLane = () =>
  h(Empty, { title: "No such lane" }, "It was removed, or its warehouse is not among those that are looked into.");
