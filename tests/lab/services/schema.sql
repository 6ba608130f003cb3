create table customers (id int primary key, name text not null);
create table products (id int primary key, name text not null, price_cents int not null);
create table carts (id int primary key, customer_id int not null references customers);
create table cart_items (
  cart_id int not null references carts, product_id int not null references products, quantity int not null,
  primary key (cart_id, product_id)
);
create table orders (
  id int generated always as identity primary key, customer_id int not null references customers,
  placed_at timestamptz not null default now(), total_cents int not null
);
create table order_lines (
  id int generated always as identity primary key, order_id int not null references orders,
  product_id int not null references products, quantity int not null
);

insert into customers select n, 'Customer ' || n from generate_series(1, 200) n;
insert into products select n, 'Product ' || n, 100 + (n * 37) % 9000 from generate_series(1, 400) n;
insert into carts select n, 1 + n % 200 from generate_series(1, 1000) n;
insert into cart_items select c, 1 + (c * 7 + i * 131) % 400, i from generate_series(1, 1000) c, generate_series(1, 3) i;
insert into orders (customer_id, total_cents) select 1 + n % 200, 500 + n % 9000 from generate_series(1, 6000) n;
insert into order_lines (order_id, product_id, quantity)
  select o, 1 + (o * 11 + i * 97) % 400, i from generate_series(1, 6000) o, generate_series(1, 3) i;
create index on orders (customer_id, id desc);
create index on order_lines (order_id);

-- The warehouse is another building: asking it takes milliseconds however small the tables are.
create function warehouse_stock(product_id int) returns int language sql volatile as
  $$ select (product_id * 13) % 50 from (select pg_sleep(0.003 + random() * 0.004)) as warehouse $$;
create function warehouse_reserve(cart_id int) returns int language sql volatile as
  $$ select cart_id from (select pg_sleep(0.080 + random() * 0.080)) as warehouse $$;
analyze;
