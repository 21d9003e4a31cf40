"""psycopg 3: its ordinary use."""

import datetime
import decimal
import unittest
import uuid

import psycopg
from psycopg.types.json import Jsonb

from server import Server


class Psycopg3(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server())

    def connect(self, **options):
        connection = psycopg.connect(**(self.server.options() | options))
        self.addCleanup(connection.close)
        return connection

    VALUES = [
        ("smallint", -7),
        ("integer", 70_000),
        ("bigint", 2**62),
        ("real", 1.5),
        ("double precision", -2.25),
        ("numeric(12,3)", decimal.Decimal("1234.567")),
        ("numeric", decimal.Decimal("123456789012345678901234567890.5")),
        ("boolean", True),
        ("text", "söme 'text'"),
        ("varchar(20)", "short"),
        ("char(4)", "ab  "),
        ("bytea", b"\x00\xff"),
        ("date", datetime.date(2024, 2, 29)),
        ("time", datetime.time(12, 34, 56, 789)),
        ("timestamp", datetime.datetime(2024, 2, 29, 1, 2, 3, 4)),
        ("timestamptz", datetime.datetime(2024, 2, 29, 1, 2, 3, 4, datetime.timezone.utc)),
        ("interval", datetime.timedelta(days=3, seconds=4, microseconds=5)),
        ("uuid", uuid.UUID(int=5)),
        ("jsonb", {"a": [1, None, "x"]}),
        ("integer[]", [1, None, 3]),
        ("text[]", ["a,b", "c\"d", None]),
    ]

    def test_every_type_comes_back_in_text_and_binary(self):
        with self.connect() as connection:
            for type_name, value in self.VALUES:
                for binary in (False, True):
                    with self.subTest(type=type_name, binary=binary):
                        cursor = connection.cursor(binary=binary)
                        sent = Jsonb(value) if type_name == "jsonb" else value
                        cursor.execute(f"SELECT %s::{type_name}, NULL::{type_name}", [sent])
                        self.assertEqual(cursor.fetchone(), (value, None))

    def test_named_cursors_in_text_and_binary(self):
        with self.connect() as connection:
            for binary in [False, True]:
                with connection.cursor("numbers", binary=binary, scrollable=True) as cursor:
                    cursor.itersize = 7
                    cursor.execute("SELECT g, g::text FROM generate_series(1, %s) g", [20])
                    self.assertEqual([n for n, _ in cursor], list(range(1, 21)))
                    cursor.scroll(2, mode="absolute")
                    self.assertEqual(cursor.fetchone(), (3, "3"))

    def test_transactions_prepared_statements_and_error_codes(self):
        with self.connect() as connection:
            connection.execute("CREATE TABLE t (id int PRIMARY KEY, n text UNIQUE)")
            with connection.transaction():
                for number in range(10):
                    connection.execute(
                        "INSERT INTO t VALUES (%s, %s)", (number, f"n{number}"), prepare=True
                    )
            with self.assertRaises(psycopg.errors.UniqueViolation) as caught:
                with connection.transaction():
                    connection.execute("INSERT INTO t VALUES (1, 'again')")
            self.assertEqual(caught.exception.diag.constraint_name, "t_pkey")
            self.assertEqual(caught.exception.diag.table_name, "t")
            with self.assertRaises(psycopg.errors.UndefinedTable):
                with connection.transaction():
                    connection.execute("SELECT * FROM nosuch")
            rows = connection.execute(
                "SELECT id FROM t WHERE id = ANY(%s) ORDER BY id", ([1, 5, 99],)
            ).fetchall()
            self.assertEqual(rows, [(1,), (5,)])
            self.assertEqual(connection.execute("SELECT count(*) FROM t").fetchone(), (10,))

    def test_executemany_and_pipelines(self):
        with self.connect(autocommit=True) as connection:
            connection.execute("CREATE TABLE m (id int PRIMARY KEY)")
            cursor = connection.cursor()
            cursor.executemany("INSERT INTO m VALUES (%s)", [(n,) for n in range(100)])
            with connection.pipeline():
                one = connection.execute("SELECT count(*) FROM m")
                two = connection.execute("SELECT max(id) FROM m")
            self.assertEqual((one.fetchone(), two.fetchone()), ((100,), (99,)))

    def test_the_login_is_bound_to_the_channel_and_a_wrong_password_is_refused(self):
        with self.connect(channel_binding="require") as connection:
            self.assertTrue(connection.pgconn.ssl_in_use)
            self.assertTrue(connection.pgconn.used_password)
        for wrong in [{"password": "wrong"}, {"sslmode": "disable"}, {"sslrootcert": "/dev/null"}, {"host": "127.0.0.1"}]:
            with self.subTest(wrong=wrong), self.assertRaises(psycopg.OperationalError):
                self.connect(**wrong)

    def test_types_are_looked_up_by_name(self):
        from psycopg.types import TypeInfo

        with self.connect() as connection:
            info = TypeInfo.fetch(connection, "uuid")
            self.assertEqual((info.oid, info.array_oid), (2950, 2951))

    def test_copy_in_and_out(self):
        with self.connect(autocommit=True) as connection:
            connection.execute("CREATE TABLE c (id int PRIMARY KEY, n text)")
            with connection.cursor().copy("COPY c (id, n) FROM STDIN") as copy:
                for number in range(5):
                    copy.write_row((number, f"row\t{number}"))
            with connection.cursor().copy("COPY c TO STDOUT") as copy:
                rows = list(copy.rows())
            self.assertEqual(rows[1], ("1", "row\t1"))
            self.assertEqual(len(rows), 5)

    def test_notifications_reach_an_idle_connection(self):
        with self.connect(autocommit=True) as listener, self.connect(autocommit=True) as other:
            listener.execute("LISTEN news")
            other.execute("SELECT pg_notify('news', 'hello')")
            received = next(listener.notifies(timeout=10))
            self.assertEqual((received.channel, received.payload), ("news", "hello"))
            self.assertEqual(received.pid, other.info.backend_pid)

    def test_a_running_statement_is_cancelled(self):
        import threading

        with self.connect(autocommit=True) as connection:
            timer = threading.Timer(0.5, connection.cancel)
            timer.start()
            with self.assertRaises(psycopg.errors.QueryCanceled):
                connection.execute(
                    "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) "
                    "SELECT count(*) FROM r WHERE n < 0"
                )
            timer.join()
            self.assertEqual(connection.execute("SELECT 1").fetchone(), (1,))


if __name__ == "__main__":
    unittest.main()
