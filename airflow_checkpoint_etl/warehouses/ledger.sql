-- The ledger: the tables in the warehouse that decide what is loaded. Written in the load's own
-- transaction (lane, ledger) or by acquire and heartbeat (stage); docs/protocol.md tells the story.

-- One row per lane: the load frontier. Only acquire (load_fence) and the load transaction write it.
create table checkpoint_etl.lane (
    pipeline        text        not null,
    part            text        not null,
    incarnation     text        not null,            -- random; changes with every rewind or reset
    generation      integer     not null default 1,  -- the same, counted, for people
    seq             bigint      not null default 0,  -- last loaded chunk
    cursor          text        not null,            -- type-tagged text, e.g. i8:812000
    state_digest    text        not null default '', -- transform state at the frontier
    load_fence      bigint      not null default 0,  -- newest load attempt
    swept           text        not null default '', -- how far late rows were swept (sweep.py)
    rows_total      bigint      not null default 0,  -- rows loaded in this generation
    target_oid      oid,
    source_identity jsonb       not null default '{}',
    fingerprint     text        not null,            -- of cursor, source, target and filter
    settings        jsonb       not null default '{}', -- of the pipeline, for people and for admin
    plan_id         bigint,                          -- the open plan over it, or the plan it is a part of
    ends_at         text,                            -- where a part of a plan ends
    sealed          boolean     not null default false, -- no load moves it: a plan is open over it, or
                                                        -- the plan it is a part of has ended
    created_at      timestamptz not null default clock_timestamp(),
    updated_at      timestamptz not null default clock_timestamp(),
    primary key (pipeline, part),
    -- Parts of a range are loaded in any order: a state that goes from chunk to chunk has none there.
    constraint part_has_no_state check (ends_at is null or state_digest = '')
);

-- One row per stage: who works on it, with which fence, until when. Never written by a load
-- transaction: its COPY would block its own heartbeat.
create table checkpoint_etl.stage (
    pipeline    text   not null,
    part        text   not null,
    stage       text   not null,
    fence       bigint not null default 0,
    dag_id      text,
    run_id      text,
    task_id     text,
    map_index   integer,
    try_number  integer,
    ti_id       text,
    host        text,
    acquired_at timestamptz,
    lease_until timestamptz,
    note        text,                       -- what its attempt waits for, for people
    failures    integer not null default 0, -- attempts that failed since it moved
    failure     jsonb,                      -- the last of them: kind, message, place; never a row value
    failed_at   timestamptz,
    primary key (pipeline, part, stage)
);

-- One row per DAG run and lane: the settled bound at which the run ends. A retry keeps it.
create table checkpoint_etl.run (
    pipeline     text        not null,
    part         text        not null,
    dag_id       text        not null,
    run_id       text        not null,
    incarnation  text        not null,
    low          text        not null,
    target       text        not null,
    swept        text        not null default '',    -- how far late rows are to be swept
    clear_number integer     not null default 0,
    done         boolean     not null default false,
    settled_at   timestamptz not null default clock_timestamp(),
    stored_at    timestamptz not null default clock_timestamp(),  -- when its extract gave it its end
    finished_at  timestamptz,
    primary key (pipeline, part, dag_id, run_id)
);
create index run_by_lane on checkpoint_etl.run (pipeline, part, stored_at desc);
create index run_by_run on checkpoint_etl.run (dag_id, run_id);
create index run_complete on checkpoint_etl.run (pipeline, part, incarnation, settled_at desc) where done;

-- One row per loaded chunk, written in the transaction that writes its rows.
create table checkpoint_etl.ledger (
    id            bigint      generated always as identity primary key,
    pipeline      text        not null,
    part          text        not null,
    incarnation   text        not null,
    generation    integer     not null,
    seq           bigint      not null,
    low           text        not null,
    high          text        not null,
    rows_in       bigint      not null,  -- rows that came out of the source
    rows          bigint      not null,  -- rows that went into the target
    rows_rejected bigint      not null default 0,
    digest        text        not null,  -- of the transformed file
    input_digest  text        not null,  -- of the extracted file
    state_digest  text        not null default '',
    state         text,                  -- the transform's state after this chunk, JSON
    swept         text        not null default '', -- how far late rows were swept after this chunk
    schema_digest text        not null default '',
    fence         bigint      not null,
    dag_id        text        not null,
    run_id        text        not null,
    task_id       text        not null,
    map_index     integer     not null,
    try_number    integer     not null,
    xid           xid8        not null default pg_current_xact_id(),
    started_at    timestamptz not null default clock_timestamp(),  -- when its transaction began to write
    loaded_at     timestamptz not null default clock_timestamp(),
    rewound_at    timestamptz,           -- when a rewind took its rows back; null while it counts
    abandoned     boolean     not null default false,  -- its lane was removed by hand: its rows stay
    plan_id       bigint,                -- the plan it was loaded for, or, in the main lane, that it closed
    unique (pipeline, part, incarnation, seq)
);
-- Whatever lives a lane has had: one chunk that counts per number.
create unique index ledger_chain on checkpoint_etl.ledger (pipeline, part, seq)
    where rewound_at is null;
create index ledger_by_lane on checkpoint_etl.ledger (pipeline, part, seq desc, id desc);
-- Down to the lane: a mapped DAG run has the chunks of a thousand lanes under one run id.
create index ledger_by_run on checkpoint_etl.ledger (dag_id, run_id, pipeline, part);
create index ledger_by_plan on checkpoint_etl.ledger (plan_id) where plan_id is not null;
create index ledger_rejected on checkpoint_etl.ledger (pipeline, part, id desc) where rows_rejected > 0;

-- Rejected records, committed in the load transaction of their chunk.
create table checkpoint_etl.quarantine (
    ledger_id  bigint      not null references checkpoint_etl.ledger (id),
    ordinal    integer     not null,
    stage      text        not null,      -- which one rejected it: transform or load
    position   integer     not null,      -- its row in the chunk's quarantine_file of this stage
    cursor     text        not null,      -- '' where the record does not say
    reason     text        not null,      -- type and place, never a value
    payload    jsonb,                     -- the record for people: row values
    created_at timestamptz not null default clock_timestamp(),
    tried_at   timestamptz,               -- when a replay failed on it last
    primary key (ledger_id, ordinal)
);

-- The same records exactly as they travelled, an Arrow file per chunk and stage, for replaying them.
create table checkpoint_etl.quarantine_file (
    ledger_id bigint not null references checkpoint_etl.ledger (id),
    stage     text   not null,
    data      bytea  not null,
    primary key (ledger_id, stage)
);

-- A range of the main lane that is loaded in parts, each a lane of its own: at most one open plan per
-- pipeline. It is made, closed and abandoned under the lock of the main lane's row.
create table checkpoint_etl.plan (
    id          bigint      generated always as identity primary key,
    token       text        not null,             -- random, in the keys of its parts
    pipeline    text        not null,
    incarnation text        not null,             -- the main lane's life it was made in
    seq         bigint      not null,             -- the main lane's last chunk before it
    low         text        not null,
    target      text        not null,
    bounds      jsonb       not null,             -- where a part ends and the next begins, in order
    swept       text        not null default '',  -- how far late rows need no sweeping once it is closed
    settled_at  timestamptz not null,             -- when its target was taken
    dag_id      text        not null,
    run_id      text        not null,
    created_at  timestamptz not null default clock_timestamp(),
    outcome     text        not null default 'open'
        check (outcome in ('open', 'loaded', 'abandoned', 'rewound')),
    closed_at   timestamptz,                      -- when it was loaded or abandoned
    collected   boolean     not null default false -- nothing of its parts is staged any more
);
create unique index plan_open on checkpoint_etl.plan (pipeline) where outcome = 'open';

-- What people and the product did to a lane beside loading: the audit trail.
create table checkpoint_etl.event (
    id         bigint      generated always as identity primary key,
    pipeline   text        not null,
    part       text        not null,
    kind       text        not null,
    actor      text        not null,
    detail     jsonb       not null default '{}',
    created_at timestamptz not null default clock_timestamp()
);
create index event_by_lane on checkpoint_etl.event (pipeline, part, id desc);
