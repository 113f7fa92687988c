// The tab of a task instance: which chunks this DAG run has loaded, and where each try went on.

import { useData } from "./api.js";
import { C, h, lanePath } from "./host.js";
import { ChunkTable } from "./lane.js";
import { Empty, Loading, Problem, Rows, Section, StateLine, To, Warnings } from "./parts.js";
import { Frontiers } from "./plots.js";
import { laneName, number, span, time } from "./words.js";

export function TaskTab({ dagId, runId, taskId, mapIndex }) {
  const map_index = mapIndex === undefined || mapIndex === "" ? -1 : mapIndex;
  const { data, error, isLoading } = useData("task", { dag_id: dagId, run_id: runId, task_id: taskId, map_index });
  return h(
    C.Box,
    { p: 4 },
    h(Problem, { error }),
    h(Warnings, { texts: data?.faults }),
    isLoading && h(Loading),
    data && !data.items.length &&
      h(Empty, { title: "No checkpoint in this run" }, "This task has not worked on a pipeline yet in this DAG run, or it is no checkpoint task."),
    data?.items.map((lane) => h(LaneOfRun, { key: laneName(lane.summary), lane })),
  );
}

function LaneOfRun({ lane }) {
  const { summary, run } = lane;
  return h(
    C.Box,
    { mb: 8 },
    h(
      C.HStack,
      { mb: 3, gap: 4 },
      h(C.Heading, { as: "h2", size: "md" }, laneName(summary)),
      h(To, { to: lanePath(summary), fontSize: "sm" }, "Open the pipeline"),
    ),
    h(C.Box, { mb: 4 }, h(StateLine, { state: summary.state })),
    h(Frontiers, { stages: summary.stages, low: run.low_shown, target: run.target_shown }),
    h(
      C.Box,
      { my: 6 },
      h(Section, { title: "Tries of the load" }, h(Tries, { tries: lane.tries })),
      h(
        Section,
        { title: `Chunks of this run (${number(run.chunks)})` },
        lane.chunks.length ? h(ChunkTable, { chunks: lane.chunks }) : h(C.Text, { color: "fg.muted" }, "No chunk is loaded yet."),
      ),
    ),
  );
}

/** "try 3 resumed at id 812,000; 64 chunks of earlier tries were kept" */
export function resumed(one) {
  if (!one.kept) return `try ${one.try_number} began at ${one.first_shown}`;
  const kept = `${number(one.kept)} chunk${one.kept === 1 ? "" : "s"} of earlier tries ${one.kept === 1 ? "was" : "were"} kept`;
  return `try ${one.try_number} resumed at id ${one.first_shown}; ${kept}`;
}

function Tries({ tries }) {
  if (!tries.length) return h(C.Text, { color: "fg.muted" }, "No try has loaded a chunk yet.");
  return h(Rows, {
    label: "Tries",
    keyOf: (one) => one.try_number,
    rows: tries,
    columns: [
      { title: "Try", cell: (one) => resumed(one) },
      { title: "To", isNumber: true, cell: (one) => one.last_shown },
      { title: "Chunks", isNumber: true, cell: (one) => number(one.chunks) },
      { title: "Rows", isNumber: true, cell: (one) => number(one.rows) },
      { title: "First chunk", cell: (one) => time(one.started_at) },
      { title: "Took", isNumber: true, cell: (one) => span(one.seconds) },
    ],
  });
}
