// The small pieces that every page is put together from.

import { C, h, Router } from "./host.js";
import { condition } from "./words.js";

/** What a lane or a stage is up to: one word in colour, and the sentence. */
export function StateLine({ state, compact = false }) {
  const [word, palette] = condition(state.condition);
  const badge = h(C.Badge, { colorPalette: palette, flexShrink: 0 }, word);
  if (compact) return badge;
  return h(
    C.Box,
    null,
    h(C.HStack, { align: "start", gap: 2 }, badge, h(C.Text, { fontSize: "sm" }, state.words)),
    state.next_move &&
      h(C.Text, { color: "fg.muted", fontSize: "sm", mt: 1 }, `Next: ${state.next_move}`),
  );
}

/** A problem, with what to do about it where the server said so. */
export function Problem({ error, title = "This could not be read" }) {
  if (!error) return null;
  const known = {
    401: "Sign in to Airflow again.",
    403: "Your role does not allow this. Ask an Airflow administrator.",
  };
  return h(
    C.Alert.Root,
    { status: "error", mb: 4, role: "alert" },
    h(C.Alert.Indicator),
    h(
      C.Alert.Content,
      null,
      h(C.Alert.Title, null, title),
      h(C.Alert.Description, null, known[error.status] ?? error.message),
    ),
  );
}

/** Sentences that are worth knowing and stop nothing. */
export const Warnings = ({ texts }) =>
  (texts ?? []).map((text) =>
    h(
      C.Alert.Root,
      { key: text, status: "warning", mb: 4 },
      h(C.Alert.Indicator),
      h(C.Alert.Content, null, h(C.Alert.Description, null, text)),
    ),
  );

export const Empty = ({ title, children }) =>
  h(
    C.EmptyState.Root,
    null,
    h(
      C.EmptyState.Content,
      null,
      h(C.EmptyState.Title, null, title),
      h(C.EmptyState.Description, { maxW: "60ch", textAlign: "center" }, children),
    ),
  );

export const Loading = () =>
  h(
    C.VStack,
    { align: "stretch", gap: 3, "aria-busy": true, "aria-label": "loading" },
    [0, 1, 2].map((key) => h(C.Skeleton, { key, height: 8 })),
  );

export const Figure = ({ label, value, note }) =>
  h(
    C.Box,
    { borderWidth: 1, borderRadius: "md", px: 4, py: 3, minW: 0 },
    h(C.Text, { color: "fg.muted", fontSize: "xs" }, label),
    h(C.Text, { fontSize: "lg", fontWeight: "semibold", truncate: true, title: String(value) }, value),
    note && h(C.Text, { color: "fg.muted", fontSize: "xs" }, note),
  );

export const Section = ({ title, children, aside }) =>
  h(
    C.Box,
    { as: "section", mb: 8 },
    h(
      C.HStack,
      { justify: "space-between", mb: 3 },
      h(C.Heading, { as: "h2", size: "md" }, title),
      aside,
    ),
    children,
  );

/** A link within Airflow's page. */
export const To = ({ to, children, ...rest }) =>
  h(C.Link, { asChild: true, colorPalette: "blue", ...rest }, h(Router.Link, { to }, children));

/**
 * A table.
 *
 * columns: [{ title, cell: (row) => element, isNumber }]; rows: any values; keyOf: a row's key.
 */
export const Rows = ({ label, columns, rows, keyOf }) =>
  h(
    C.Box,
    { overflowX: "auto" },
    h(
      C.Table.Root,
      { size: "sm", "aria-label": label },
      h(
        C.Table.Header,
        null,
        h(
          C.Table.Row,
          null,
          columns.map(({ title, isNumber }) =>
            h(
              C.Table.ColumnHeader,
              { key: title, scope: "col", textAlign: isNumber ? "end" : "start" },
              title,
            ),
          ),
        ),
      ),
      h(
        C.Table.Body,
        null,
        rows.map((row) =>
          h(
            C.Table.Row,
            { key: keyOf(row) },
            columns.map(({ title, cell, isNumber }) =>
              h(
                C.Table.Cell,
                { key: title, textAlign: isNumber ? "end" : "start", whiteSpace: isNumber ? "nowrap" : undefined },
                cell(row),
              ),
            ),
          ),
        ),
      ),
    ),
  );
