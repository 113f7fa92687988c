// What Airflow's page gives a plugin: its own React, router and Chakra UI, as globals. There is no build.

const { React, ReactRouterDOM, ChakraUI } = globalThis;

export { React, ReactRouterDOM as Router, ChakraUI as C };

export const { useCallback, useEffect, useId, useMemo, useRef, useState } = React;

/** Make an element: `h(C.Text, { color: "fg.muted" }, "words")`. */
export const h = React.createElement;

/** The path that Airflow is served under: "/" or a prefix that a proxy gave it, with a slash at its end. */
export function basePath() {
  const base = document.querySelector("head > base");
  return base ? new URL(base.href, window.location.href).pathname : "/";
}

/** Where a lane's page is, for the router. */
export function lanePath(lane) {
  const query = new URLSearchParams({
    warehouse: lane.warehouse_conn_id,
    pipeline: lane.pipeline,
    part: lane.part,
  });
  return `/plugin/checkpoints?${query}`;
}

/** Where a task instance's page is, for the router. */
export function taskPath({ dag_id: dag, run_id: run, task_id: task, map_index: index }) {
  const at = `/dags/${encodeURIComponent(dag)}/runs/${encodeURIComponent(run)}`;
  if (!task) return at;
  const mapped = index !== undefined && index >= 0 ? `/mapped/${index}` : "";
  return `${at}/tasks/${encodeURIComponent(task)}${mapped}`;
}
