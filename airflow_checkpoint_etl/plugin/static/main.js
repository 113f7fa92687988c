// The two components that Airflow asks for by name: the page in the navigation, and the tab of a task.

import { h, Router } from "./host.js";
import { LanePage } from "./lane.js";
import { PipelineList } from "./pipelines.js";
import { TaskTab } from "./task.js";

function Checkpoints() {
  const [query] = Router.useSearchParams();
  const pipeline = query.get("pipeline");
  if (!pipeline) return h(PipelineList);
  return h(LanePage, {
    lane: {
      warehouse_conn_id: query.get("warehouse") ?? "",
      pipeline,
      part: query.get("part") ?? "default",
    },
  });
}

globalThis.Checkpoints = Checkpoints;
globalThis.Checkpoint = TaskTab;
