-- The shop's orders, and what the warehouse must hold after they were cleaned; named statements.

-- name: create_orders
-- The source table, as a web shop would have it.
create table public.orders (
    id         bigint generated always as identity primary key,
    customer   text,                       -- whatever people type: quotes, scripts, line breaks, nothing
    email      text           not null,
    amount     numeric(12, 2) not null,
    currency   text           not null,
    note       text,
    items      jsonb          not null,
    status     text           not null,
    created_at timestamptz    not null
);

-- name: seed
-- The same numbers on every machine.
select setseed(%s);

-- name: add_orders
-- New orders behind the existing ones; one in 24 is a test order, which the transform drops.
insert into public.orders (customer, email, amount, currency, note, items, status, created_at)
select
    (array[
        'Ada Lovelace', 'Seán O''Brien', 'Ann "The Boss" Lee', 'Łukasz Żółć', '李小龍', 'Νίκος',
        E'two\nlines', E'tab\tbed', 'back\slash', '\N', 'комета ☄', '👩‍🚀 Zoë', '', null
    ])[1 + floor(random() * 14)::int],
    format(
        '%%sUser.%%s@%%s',
        case when random() < 0.1 then '  ' else '' end,
        n,
        (array['Example.com', 'EXAMPLE.ORG', 'shop.example.net'])[1 + floor(random() * 3)::int]
    ),
    (random() * 5000 - 100)::numeric(12, 2),
    (array['EUR', 'USD', 'PLN', 'JPY'])[1 + floor(random() * 4)::int],
    (array[null, null, '', 'gift', 'leave at the door, "please"'])[1 + floor(random() * 5)::int],
    jsonb_build_array(
        jsonb_build_object(
            'sku', 'A-' || floor(random() * 1000)::int,
            'quantity', 1 + floor(random() * 9)::int,
            'price', (random() * 300)::numeric(8, 2)
        )
    ),
    case
        when n %% 24 = 0 then 'test'
        else (array['new', 'paid', 'sent', 'returned'])[1 + floor(random() * 4)::int]
    end,
    timestamptz '2026-01-01 00:00:00+00' + n * interval '17 seconds 123457 microseconds'
from generate_series(
    (select coalesce(max(id), 0) + 1 from public.orders),
    (select coalesce(max(id), 0) + %(rows)s from public.orders)
) as n;

-- name: last_order
-- The highest id, 0 in an empty table.
select coalesce(max(id), 0) from public.orders;

-- name: cleaned
-- What the warehouse must hold, said in SQL so that it does not depend on the transform's code.
select
    id,
    customer,
    lower(btrim(email)) as email,
    (amount * 100)::bigint as amount_cents,
    currency,
    note,
    items,
    status,
    created_at
from public.orders
where status <> 'test'

-- name: create_expected
-- Room for those rows beside the loaded ones.
create temporary table expected_orders (
    id bigint, customer text, email text, amount_cents bigint, currency text, note text,
    items jsonb, status text, created_at timestamptz
) on commit drop;

-- name: compare
-- Both ways: what the warehouse lacks, and what it holds but should not; EXCEPT ALL counts copies.
with loaded as (
    select id, customer, email, amount_cents, currency, note, items, status, created_at
    from analytics.orders
)
select
    (select count(*) from expected_orders),
    (select count(*) from loaded),
    (select count(*) from (table expected_orders except all table loaded) as missing),
    (select count(*) from (table loaded except all table expected_orders) as unexpected),
    (select count(*) - count(distinct id) from loaded);
