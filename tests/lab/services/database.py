"""The tables of `orders`, and its engine with a pool that is ample or, with the fault switched on, too small."""

import datetime

from sqlalchemy import ForeignKey
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from tests.lab.faults import Fault
from tests.lab.services.environment import DATABASE_URL, has

POOL_SIZE = 2 if has(Fault.SMALL_POOL) else 30

engine = create_async_engine(DATABASE_URL, pool_size=POOL_SIZE, max_overflow=0, pool_timeout=10)
sessions = async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)


class Base(DeclarativeBase):
    """Root of the mapped classes."""


class Product(Base):
    """Something for sale."""

    __tablename__ = "products"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    price_cents: Mapped[int]


class Cart(Base):
    """What a customer means to buy."""

    __tablename__ = "carts"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int]


class CartItem(Base):
    """One product in a cart."""

    __tablename__ = "cart_items"
    cart_id: Mapped[int] = mapped_column(ForeignKey("carts.id"), primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("products.id"), primary_key=True)
    quantity: Mapped[int]


class Order(Base):
    """What a customer has bought."""

    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int]
    placed_at: Mapped[datetime.datetime] = mapped_column(server_default="now()")
    total_cents: Mapped[int]
    lines: Mapped[list["OrderLine"]] = relationship(lazy="raise")


class OrderLine(Base):
    """One product of an order."""

    __tablename__ = "order_lines"
    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
    product_id: Mapped[int]
    quantity: Mapped[int]
