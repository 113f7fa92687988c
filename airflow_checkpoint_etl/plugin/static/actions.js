// What those who may can do to a lane. Whatever takes something away is tried without effect first.

import { act } from "./api.js";
import { C, h, useId, useState } from "./host.js";
import { Problem } from "./parts.js";
import { number } from "./words.js";

export function Actions({ lane, insight, refresh }) {
  const owned = insight.summary.stages.filter((stage) => stage.owner && stage.lease_seconds !== 0);
  return h(
    C.HStack,
    { gap: 3, wrap: "wrap" },
    h(Rewind, { lane, refresh }),
    insight.quarantine.total.number > 0 &&
      h(Confirmed, {
        lane, refresh, label: "Replay quarantine", path: "lane/replay",
        asks: "Tries again what the target had refused, under the chunks it came from. What the transform had rejected needs the mended transform: replay that from Python.",
        told: (done) => `${number(done.released)} of ${number(done.records)} record(s) released, ${number(done.left)} left`,
      }),
    owned.map((stage) =>
      h(Confirmed, {
        key: stage.stage, lane, refresh, label: `Release ${stage.stage}`, path: "lane/release",
        body: { stage: stage.stage }, hasDryRun: false,
        asks: `Ends the lease of ${stage.owner.task} and fences it: it can write nothing from then on. Do this when its worker is gone.`,
        told: (done) => `released from ${done.owner}`,
      }),
    ),
    h(Confirmed, {
      lane, refresh, label: "Collect garbage", path: "lane/collect", hasDryRun: false,
      asks: "Deletes staged files that nobody needs any more. A load does this by itself.",
      told: (done) => `${number(done.removed)} staged file(s) removed`,
    }),
  );
}

/** A button, its dialog, and the request behind it. */
function Confirmed({ lane, label, path, asks, told, body = {}, refresh, hasDryRun = true }) {
  const form = useRequest(path, { ...lane, ...body }, refresh);
  const [reason, setReason] = useState("");
  return h(
    Dialog,
    { label, form, onOpen: () => setReason("") },
    h(C.Text, { mb: 4 }, asks),
    h(Reason, { reason, setReason }),
    form.found && h(C.Text, { mt: 4, role: "status" }, `${form.wasDry ? "Would be: " : ""}${told(form.found)}`),
    h(
      C.HStack,
      { mt: 5, justify: "end" },
      hasDryRun && h(C.Button, { variant: "outline", loading: form.isBusy, onClick: () => form.send({ reason, dry_run: true }) }, "Dry run"),
      h(
        C.Button,
        { colorPalette: "blue", loading: form.isBusy, disabled: !reason.trim() || (hasDryRun && !form.wasDry), onClick: () => form.send({ reason, dry_run: false }) },
        label,
      ),
    ),
  );
}

/** Dry run first; then the pipeline's name has to be typed. */
function Rewind({ lane, refresh }) {
  const form = useRequest("lane/rewind", lane, refresh);
  const [to, setTo] = useState("");
  const [reason, setReason] = useState("");
  const [typed, setTyped] = useState("");
  const [planned, setPlanned] = useState(null);
  const open = () => {
    setTo("");
    setReason("");
    setTyped("");
    setPlanned(null);
  };
  const plan = async () => setPlanned(await form.send({ to, reason, dry_run: true }));
  const rewind = () => form.send({ to, reason, dry_run: false, confirm: typed, incarnation: planned.incarnation });
  const isDone = form.found && !form.wasDry;
  return h(
    Dialog,
    { label: "Rewind", form, onOpen: open, palette: "red" },
    h(C.Text, { mb: 4 }, "Goes back to a chunk boundary. The next run reads again from there; rows above it are taken back, or replaced by an upsert."),
    h(Field, { label: "Go back to id", value: to, onChange: (value) => { setTo(value); setPlanned(null); }, note: "moved down to the chunk boundary at or below it" }),
    h(Reason, { reason, setReason }),
    planned && h(Plan, { planned, isDone }),
    planned && !isDone && h(Field, { label: `Type the pipeline's name, ${lane.pipeline}, to confirm`, value: typed, onChange: setTyped }),
    h(
      C.HStack,
      { mt: 5, justify: "end" },
      h(C.Button, { variant: "outline", loading: form.isBusy, disabled: !to.trim() || isDone, onClick: plan }, "Dry run"),
      h(
        C.Button,
        { colorPalette: "red", loading: form.isBusy, disabled: !planned || isDone || typed !== lane.pipeline || !reason.trim(), onClick: rewind },
        "Rewind",
      ),
    ),
  );
}

const Plan = ({ planned, isDone }) =>
  h(
    C.Box,
    { bg: "bg.muted", borderRadius: "md", p: 4, my: 4, role: "status" },
    h(C.Text, { fontWeight: "semibold", mb: 2 }, isDone ? "Rewound" : "This would happen"),
    h(C.Text, null, `From chunk ${number(planned.from_seq)} at ${planned.from_shown} back to chunk ${number(planned.to_seq)} at ${planned.to_shown}.`),
    h(C.Text, null, `${number(planned.chunks)} chunk(s) with ${number(planned.rows)} rows are taken back.`),
    planned.deleted !== null && h(C.Text, null, `${number(planned.deleted)} rows are deleted from the target.`),
    planned.quarantined > 0 && h(C.Text, null, `${number(planned.quarantined)} quarantined record(s) are dropped with them.`),
    planned.warnings.map((warning) => h(C.Text, { key: warning, color: "fg.warning", mt: 2 }, warning)),
  );

function useRequest(path, lane, refresh) {
  const [state, setState] = useState({ found: null, error: null, isBusy: false, wasDry: false });
  const clear = () => setState({ found: null, error: null, isBusy: false, wasDry: false });
  const send = async (body) => {
    setState((before) => ({ ...before, error: null, isBusy: true }));
    try {
      const found = await act(path, { ...lane, ...body });
      setState({ found, error: null, isBusy: false, wasDry: body.dry_run });
      if (!body.dry_run) refresh();
      return found;
    } catch (error) {
      setState({ found: null, error, isBusy: false, wasDry: false });
      return null;
    }
  };
  return { ...state, send, clear };
}

function Dialog({ label, form, onOpen, palette = "gray", children }) {
  const [isOpen, setOpen] = useState(false);
  const change = ({ open }) => {
    if (open) {
      form.clear();
      onOpen();
    }
    setOpen(open);
  };
  return h(
    C.Dialog.Root,
    { open: isOpen, onOpenChange: change },
    h(C.Dialog.Trigger, { asChild: true }, h(C.Button, { size: "sm", variant: "outline", colorPalette: palette }, label)),
    h(
      C.Portal,
      null,
      h(C.Dialog.Backdrop),
      h(
        C.Dialog.Positioner,
        null,
        h(
          C.Dialog.Content,
          null,
          h(C.Dialog.Header, null, h(C.Dialog.Title, null, label)),
          h(C.Dialog.Body, null, h(Problem, { error: form.error, title: "This was refused" }), children),
          h(C.Dialog.CloseTrigger, { asChild: true }, h(C.CloseButton, { size: "sm" })),
        ),
      ),
    ),
  );
}

function Field({ label, value, onChange, note }) {
  const id = useId();
  return h(
    C.Box,
    { mb: 4 },
    h(C.Text, { as: "label", htmlFor: id, fontSize: "sm", fontWeight: "medium", display: "block", mb: 1 }, label),
    h(C.Input, { id, value, autoComplete: "off", onChange: (event) => onChange(event.target.value) }),
    note && h(C.Text, { color: "fg.muted", fontSize: "xs", mt: 1 }, note),
  );
}

const Reason = ({ reason, setReason }) =>
  h(Field, { label: "Reason, for the audit log", value: reason, onChange: setReason });
