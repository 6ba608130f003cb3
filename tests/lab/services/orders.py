"""Orders: carts, products and orders in PostgreSQL; receipts are left to the worker."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Body, Depends, FastAPI, HTTPException
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from tests.lab.faults import Fault
from tests.lab.services import truth
from tests.lab.services.database import POOL_SIZE, Cart, CartItem, Order, OrderLine, Product, engine, sessions
from tests.lab.services.environment import has, jitter_s
from tests.lab.services.web import new_app
from tests.lab.services.worker import send_receipt

HISTORY_LENGTH = 20


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """Open every connection of the pool before the first request, so that a wait means a wait."""
    connections = await asyncio.gather(*(engine.connect() for _ in range(POOL_SIZE)))
    await asyncio.gather(*(connection.close() for connection in connections))
    yield
    await engine.dispose()


app = new_app(lifespan)


async def open_session() -> AsyncIterator[AsyncSession]:
    """Lend a session whose connection is checked out of the pool, for the whole request."""
    async with sessions() as session:
        asked = time.perf_counter()
        await session.connection()
        truth.observe("pool_checkout", (time.perf_counter() - asked) * 1000)
        yield session


Session = Annotated[AsyncSession, Depends(open_session)]


@app.get("/products")
async def products(session: Session, page: int = 1) -> list[dict[str, object]]:
    """List one page of products."""
    rows = await session.scalars(select(Product).order_by(Product.id).limit(20).offset(20 * (page - 1)))
    return [{"id": row.id, "name": row.name, "price_cents": row.price_cents} for row in rows]


@app.get("/carts/{cart_id}")
async def cart(cart_id: int, session: Session) -> dict[str, object]:
    """Show a cart with what the warehouse has of each product."""
    found = await session.get(Cart, cart_id)
    if found is None:
        raise HTTPException(404, "no such cart")
    items = await session.execute(
        select(CartItem.product_id, CartItem.quantity, func.warehouse_stock(CartItem.product_id).label("stock")).where(
            CartItem.cart_id == cart_id
        )
    )
    return {"id": cart_id, "customer_id": found.customer_id, "items": [list(item) for item in items]}


@app.get("/orders")
async def order_history(customer_id: int, session: Session) -> list[dict[str, object]]:
    """List a customer's latest orders with their lines."""
    query = select(Order).where(Order.customer_id == customer_id).order_by(Order.id.desc()).limit(HISTORY_LENGTH)
    if has(Fault.N_PLUS_ONE):
        truth.counts["histories_n_plus_one"] += 1
        orders = list(await session.scalars(query))
        lines = [list(await session.scalars(select(OrderLine).where(OrderLine.order_id == row.id))) for row in orders]
    else:
        orders = list(await session.scalars(query.options(selectinload(Order.lines))))
        lines = [row.lines for row in orders]
    return [
        {"id": row.id, "products": [line.product_id for line in own]} for row, own in zip(orders, lines, strict=True)
    ]


@app.get("/orders/{order_id}")
async def order(order_id: int, session: Session) -> dict[str, object]:
    """Show one order with its lines."""
    found = await session.scalar(select(Order).where(Order.id == order_id).options(selectinload(Order.lines)))
    if found is None:
        raise HTTPException(404, "no such order")
    return {"id": found.id, "total_cents": found.total_cents, "products": [line.product_id for line in found.lines]}


@app.post("/orders", status_code=201)
async def place_order(cart_id: Annotated[int, Body(embed=True)], session: Session) -> dict[str, int]:
    """Reserve the goods, store the order and leave the receipt to the worker."""
    items = list(await session.scalars(select(CartItem).where(CartItem.cart_id == cart_id)))
    await session.execute(select(func.warehouse_reserve(cart_id)))
    placed = Order(
        customer_id=1 + cart_id % 200,
        placed_at=func.now(),
        total_cents=sum(100 * item.quantity for item in items),
        lines=[OrderLine(product_id=item.product_id, quantity=item.quantity) for item in items],
    )
    session.add(placed)
    await session.commit()
    truth.counts["orders_placed"] += 1
    await asyncio.to_thread(send_receipt.delay, placed.id, time.time())
    return {"id": placed.id}


@app.get("/customers/{customer_id}/summary")
async def summary(customer_id: int, session: Session) -> dict[str, object]:
    """Count a customer's orders and what they were worth."""
    query = select(func.count(), func.sum(Order.total_cents)).where(Order.customer_id == customer_id)
    number, total_cents = (await session.execute(query)).one()
    return {"orders": number, "total_cents": total_cents}


@app.get("/recommendations/{customer_id}")
async def recommendations(customer_id: int) -> dict[str, object]:
    """Choose three products; scoring them takes a while and needs no database."""
    await asyncio.sleep(jitter_s(12))
    return {"products": [1 + (customer_id * step) % 400 for step in (3, 17, 29)]}
