"""asyncpg: its ordinary use. It takes every value in binary and looks types up by itself."""

import asyncio
import datetime
import decimal
import unittest
import uuid

import asyncpg

from server import Server


class Asyncpg(unittest.IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server())

    async def connect(self):
        connection = await asyncpg.connect(self.server.url("postgresql"))
        self.addAsyncCleanup(connection.close)
        return connection

    async def test_every_type_comes_back(self):
        connection = await self.connect()
        moment = datetime.datetime(2024, 2, 29, 1, 2, 3, 4)
        for type_name, value in [
            ("smallint", -7),
            ("integer", 70_000),
            ("bigint", 2**62),
            ("real", 1.5),
            ("double precision", -2.25),
            ("numeric(12,3)", decimal.Decimal("1234.567")),
            ("numeric", decimal.Decimal("123456789012345678901234567890.5")),
            ("boolean", False),
            ("text", "söme 'text'"),
            ("varchar(20)", "short"),
            ("bytea", b"\x00\xff"),
            ("date", moment.date()),
            ("time", moment.time()),
            ("timestamp", moment),
            ("timestamptz", moment.replace(tzinfo=datetime.timezone.utc)),
            ("interval", datetime.timedelta(days=3, seconds=4, microseconds=5)),
            ("uuid", uuid.UUID(int=5)),
            ("json", '{"a": 1}'),
            ("jsonb", '{"a": 1}'),
            ("integer[]", [1, None, 3]),
            ("text[]", ["a,b", 'c"d', None]),
            ("timestamptz[]", [moment.replace(tzinfo=datetime.timezone.utc)]),
        ]:
            with self.subTest(type=type_name):
                found = await connection.fetchrow(f"SELECT $1::{type_name}, NULL::{type_name}", value)
                self.assertEqual(tuple(found), (value, None))

    async def test_transactions_statements_and_errors(self):
        connection = await self.connect()
        await connection.execute("CREATE TABLE t (id int PRIMARY KEY, n text NOT NULL)")
        async with connection.transaction():
            await connection.executemany(
                "INSERT INTO t VALUES ($1, $2)", [(n, f"n{n}") for n in range(20)]
            )
        with self.assertRaises(asyncpg.UniqueViolationError) as caught:
            await connection.execute("INSERT INTO t VALUES (1, 'x')")
        self.assertEqual(caught.exception.constraint_name, "t_pkey")
        with self.assertRaises(asyncpg.NotNullViolationError):
            await connection.execute("INSERT INTO t VALUES (50, NULL)")
        rows = await connection.fetch("SELECT id FROM t WHERE id = ANY($1::int[]) ORDER BY 1", [3, 4])
        self.assertEqual([row["id"] for row in rows], [3, 4])
        statement = await connection.prepare("SELECT n FROM t WHERE id = $1")
        self.assertEqual(await statement.fetchval(7), "n7")
        self.assertEqual([a.name for a in statement.get_attributes()], ["n"])
        async with connection.transaction():
            seen = [row["id"] async for row in connection.cursor("SELECT id FROM t ORDER BY id", prefetch=3)]
        self.assertEqual(seen, list(range(20)))

    async def test_a_pool_resets_its_connections(self):
        async with asyncpg.create_pool(self.server.url("postgresql"), min_size=1, max_size=2) as pool:
            for _ in range(3):
                async with pool.acquire() as connection:
                    self.assertEqual(await connection.fetchval("SELECT 1"), 1)

    async def test_copy(self):
        connection = await self.connect()
        await connection.execute("CREATE TABLE c (id int PRIMARY KEY, n text)")
        done = await connection.copy_records_to_table("c", records=[(n, f"n{n}") for n in range(5)])
        self.assertEqual(done, "COPY 5")
        self.assertEqual(await connection.fetchval("SELECT count(*) FROM c"), 5)

    async def test_notifications_reach_an_idle_connection(self):
        listener, other = await self.connect(), await self.connect()
        received = asyncio.get_running_loop().create_future()
        await listener.add_listener("news", lambda *event: received.set_result(event[1:]))
        await other.execute("SELECT pg_notify('news', 'hello')")
        pid, channel, payload = await asyncio.wait_for(received, 10)
        self.assertEqual((pid, channel, payload), (other.get_server_pid(), "news", "hello"))

    async def test_a_running_statement_is_cancelled(self):
        connection = await self.connect()
        endless = (
            "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r WHERE n < 0"
        )
        # Ends by the driver's own clock, which sends a cancel request and takes the connection up again.
        with self.assertRaises(asyncio.TimeoutError):
            await connection.fetchval(endless, timeout=0.5)
        self.assertEqual(await connection.fetchval("SELECT 1"), 1)

    async def test_who_does_not_show_the_password_over_tls_is_refused(self):
        for wrong in [{"password": "wrong"}, {"ssl": False}]:
            with self.subTest(wrong=wrong):
                with self.assertRaises(asyncpg.InvalidAuthorizationSpecificationError):
                    await asyncpg.connect(self.server.url("postgresql"), **wrong)


if __name__ == "__main__":
    unittest.main()
