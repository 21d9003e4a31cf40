"""SQLAlchemy: a small application makes its tables, reads them back, queries and updates."""

import datetime
import decimal
import unittest

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from server import Server


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(40), unique=True)
    born: Mapped[datetime.date | None]
    books: Mapped[list["Book"]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "book"
    __table_args__ = (sa.CheckConstraint("price > 0", name="book_price_check"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(index=True)
    price: Mapped[decimal.Decimal] = mapped_column(sa.Numeric(10, 2))
    tags: Mapped[list[str]] = mapped_column(postgresql.ARRAY(sa.Text))
    extra: Mapped[dict] = mapped_column(postgresql.JSONB, server_default="{}")
    added: Mapped[datetime.datetime] = mapped_column(
        sa.DateTime(timezone=True), server_default=sa.func.now()
    )
    author_id: Mapped[int] = mapped_column(sa.ForeignKey("author.id", ondelete="CASCADE"))
    author: Mapped[Author] = relationship(back_populates="books")


class Application(unittest.TestCase):
    driver = "postgresql+psycopg"

    def test_create_introspect_query_and_update(self):
        with Server() as server:
            engine = sa.create_engine(server.url(self.driver))
            self.addCleanup(engine.dispose)
            Base.metadata.create_all(engine)
            Base.metadata.create_all(engine)  # finds that all is there
            self.fill(engine)
            self.query(engine)
            self.introspect(engine)
            Base.metadata.drop_all(engine)
            self.assertEqual(sa.inspect(engine).get_table_names(), [])

    def fill(self, engine):
        with Session(engine) as session, session.begin():
            ada = Author(name="Ada", born=datetime.date(1815, 12, 10))
            for number in range(3):
                book = Book(title=f"Notes {number}", price=decimal.Decimal("9.50") + number, tags=["x", "y"])
                book.extra = {"n": number}
                ada.books.append(book)
            session.add_all([ada, Author(name="Grace")])

    def query(self, engine):
        with Session(engine) as session:
            found = session.execute(
                sa.select(Author.name, sa.func.count(Book.id), sa.func.sum(Book.price))
                .join(Book, isouter=True)
                .group_by(Author.id)
                .order_by(Author.name)
            ).all()
            self.assertEqual(found[0][0:2], ("Ada", 3))
            self.assertEqual(found[0][2], decimal.Decimal("31.50"))
            self.assertEqual(found[1][0:2], ("Grace", 0))
            book = session.scalars(sa.select(Book).where(Book.extra["n"].as_integer() == 1)).one()
            self.assertEqual((book.title, book.tags, book.author.name), ("Notes 1", ["x", "y"], "Ada"))
            book.price = decimal.Decimal("1.25")
            session.commit()
            self.assertEqual(session.get(Book, book.id).price, decimal.Decimal("1.25"))
            session.execute(sa.update(Book).where(Book.title.like("Notes%")).values(title=Book.title + "!"))
            session.commit()
            titles = session.scalars(sa.select(Book.title).where(Book.id.in_([1, 2])).order_by(Book.id)).all()
            self.assertEqual(titles, ["Notes 0!", "Notes 1!"])
            with self.assertRaises(sa.exc.IntegrityError):
                session.add(Author(name="Ada"))
                session.flush()
            session.rollback()
            statement = postgresql.insert(Author).values(name="Ada", born=None)
            statement = statement.on_conflict_do_update(
                index_elements=[Author.name], set_={"born": datetime.date(1815, 12, 11)}
            )
            session.execute(statement)
            session.commit()

    def introspect(self, engine):
        inspector = sa.inspect(engine)
        self.assertEqual(sorted(inspector.get_table_names()), ["author", "book"])
        columns = {column["name"]: column for column in inspector.get_columns("book")}
        self.assertIsInstance(columns["price"]["type"], sa.Numeric)
        self.assertEqual((columns["price"]["type"].precision, columns["price"]["type"].scale), (10, 2))
        self.assertIsInstance(columns["tags"]["type"], postgresql.ARRAY)
        self.assertIsInstance(columns["extra"]["type"], postgresql.JSONB)
        self.assertTrue(columns["added"]["type"].timezone)
        self.assertFalse(columns["title"]["nullable"])
        self.assertEqual(columns["id"]["default"], "nextval('book_id_seq'::regclass)")
        self.assertEqual(inspector.get_pk_constraint("book")["constrained_columns"], ["id"])
        (key,) = inspector.get_foreign_keys("book")
        self.assertEqual((key["referred_table"], key["constrained_columns"]), ("author", ["author_id"]))
        self.assertEqual(key["options"], {"ondelete": "CASCADE"})
        self.assertEqual([i["name"] for i in inspector.get_indexes("book")], ["ix_book_title"])
        self.assertEqual([u["column_names"] for u in inspector.get_unique_constraints("author")], [["name"]])
        self.assertEqual([c["name"] for c in inspector.get_check_constraints("book")], ["book_price_check"])
        again = sa.MetaData()
        again.reflect(engine)
        self.assertEqual(sorted(again.tables), ["author", "book"])


class WithPsycopg2(Application):
    driver = "postgresql+psycopg2"


if __name__ == "__main__":
    unittest.main()
