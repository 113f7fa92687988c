// The list: every lane with its state, found by name or state, refreshed by itself.

import { useData } from "./api.js";
import { C, h, lanePath, Router, useEffect, useState } from "./host.js";
import { Empty, Loading, Problem, Rows, StateLine, To, Warnings } from "./parts.js";
import { Sparkline, StageBars } from "./plots.js";
import { laneName, number, span, speed } from "./words.js";

const STATES = ["", "working", "waiting", "failed", "stuck", "caught_up", "idle"];
const TYPING_MS = 300;

const COLUMNS = [
  {
    title: "Pipeline",
    cell: (lane) =>
      h(
        C.Box,
        null,
        h(To, { to: lanePath(lane), fontWeight: "semibold" }, laneName(lane)),
        h(C.Text, { color: "fg.muted", fontSize: "xs" }, `${lane.source} → ${lane.target_table}`),
      ),
  },
  { title: "Extract, transform, load", cell: (lane) => h(StageBars, { stages: lane.stages }) },
  { title: "State", cell: (lane) => h(StateLine, { state: lane.state }) },
  { title: "Last id", isNumber: true, cell: (lane) => lane.position.shown },
  {
    title: "Lag",
    isNumber: true,
    cell: (lane) =>
      h(
        C.Box,
        null,
        h(C.Text, null, span(lane.lag.seconds)),
        lane.lag.ids > 0 &&
          h(C.Text, { color: "fg.muted", fontSize: "xs" }, `${number(lane.lag.ids)} ids to go`),
      ),
  },
  { title: "Speed", isNumber: true, cell: (lane) => speed(lane.rows_per_second) },
  { title: "Last hours", cell: (lane) => h(Sparkline, { values: lane.sparkline }) },
];

/** The text of a search box, once the typing pauses. */
function useSettled(text) {
  const [settled, setSettled] = useState(text);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(text), TYPING_MS);
    return () => clearTimeout(timer);
  }, [text]);
  return settled;
}

export function PipelineList() {
  const [given, setGiven] = Router.useSearchParams();
  const [typed, setTyped] = useState(given.get("search") ?? "");
  const [pages, setPages] = useState([]); // where the pages before this one began
  const search = useSettled(typed);
  const state = given.get("state") ?? "";
  const after = pages.at(-1) ?? "";
  const { data, error, isLoading } = useData("pipelines", { search, state, after });

  const choose = (name, value) => {
    setPages([]);
    setGiven((before) => {
      const query = new URLSearchParams(before);
      if (value) query.set(name, value);
      else query.delete(name);
      return query;
    }, { replace: true });
  };
  useEffect(() => choose("search", search), [search]);

  return h(
    C.Box,
    { p: 6 },
    h(C.Heading, { as: "h1", size: "xl", mb: 4 }, "Checkpoints"),
    h(
      C.HStack,
      { gap: 3, mb: 4, wrap: "wrap" },
      h(C.Input, {
        "aria-label": "Search pipelines", maxW: "320px", placeholder: "Search pipelines",
        type: "search", value: typed, onChange: (event) => setTyped(event.target.value),
      }),
      h(
        C.NativeSelect.Root,
        { maxW: "200px" },
        h(
          C.NativeSelect.Field,
          { "aria-label": "State", value: state, onChange: (event) => choose("state", event.target.value) },
          STATES.map((name) =>
            h("option", { key: name, value: name }, name ? name.replace("_", " ") : "Any state"),
          ),
        ),
        h(C.NativeSelect.Indicator),
      ),
    ),
    h(Problem, { error }),
    h(Warnings, { texts: data?.faults }),
    isLoading && h(Loading),
    data && data.items.length === 0 && !error && h(NoLanes, { isFiltered: Boolean(search || state) }),
    data &&
      data.items.length > 0 &&
      h(Rows, {
        label: "Pipelines",
        columns: COLUMNS,
        rows: data.items,
        keyOf: (lane) => `${lane.warehouse_conn_id}/${lane.pipeline}/${lane.part}`,
      }),
    (pages.length > 0 || data?.next_token) &&
      h(
        C.HStack,
        { mt: 4 },
        h(C.Button, { size: "sm", variant: "outline", disabled: pages.length === 0, onClick: () => setPages(pages.slice(0, -1)) }, "Previous"),
        h(C.Button, { size: "sm", variant: "outline", disabled: !data?.next_token, onClick: () => setPages([...pages, data.next_token]) }, "Next"),
      ),
  );
}

const NoLanes = ({ isFiltered }) =>
  isFiltered
    ? h(Empty, { title: "No pipeline matches" }, "Search for another name, or choose any state.")
    : h(
        Empty,
        { title: "No pipelines yet" },
        "A pipeline appears here when its extract has run for the first time. If one has, name its warehouse " +
          "connection in the Airflow configuration: [checkpoint_etl] warehouse_conn_ids.",
      );
