-- Checkpoints and manifests, version 1. A record that can be rebuilt from the warehouse: losing these
-- tables costs work, never a row.

-- Where each stage of each lane stands; the heads that appends compare with. The checksum covers every
-- column but the key.
create table checkpoint_etl.checkpoint (
    pipeline text not null,
    part text not null,
    stage text not null,
    fence bigint not null,
    incarnation text not null,
    generation bigint not null,
    seq bigint not null,
    cursor text not null,
    state_digest text not null,
    swept text not null,
    rows_in bigint not null,
    rows bigint not null,
    state text,
    updated_at text not null,
    digest text not null,
    checksum text not null,
    primary key (pipeline, part, stage)
);

-- The chunks between the load frontier and each stage's frontier; an entry is checksummed JSON text.
create table checkpoint_etl.manifest (
    pipeline text not null,
    part text not null,
    stage text not null,
    incarnation text not null,
    seq bigint not null,
    entry text not null,
    primary key (pipeline, part, stage, incarnation, seq)
);
