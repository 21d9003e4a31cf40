"""psycopg 2: its ordinary use. It sends every value as text within the statement."""

import datetime
import decimal
import io
import select
import threading
import unittest
import uuid

import psycopg2
import psycopg2.errors
import psycopg2.extras

from server import Server

psycopg2.extras.register_uuid()


class Psycopg2(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server())

    def connect(self, autocommit=False, **options):
        connection = psycopg2.connect(**(self.server.options() | options))
        connection.autocommit = autocommit
        self.addCleanup(connection.close)
        return connection

    def test_every_type_comes_back(self):
        moment = datetime.datetime(2024, 2, 29, 1, 2, 3, 4)
        cursor = self.connect(autocommit=True).cursor()
        for type_name, value in [
            ("smallint", -7),
            ("bigint", 2**62),
            ("double precision", -2.25),
            ("numeric(12,3)", decimal.Decimal("1234.567")),
            ("boolean", True),
            ("text", "söme 'text' \\ %"),
            ("date", moment.date()),
            ("time", moment.time()),
            ("timestamp", moment),
            ("timestamptz", moment.replace(tzinfo=datetime.timezone.utc)),
            ("interval", datetime.timedelta(days=3, seconds=4, microseconds=5)),
            ("uuid", uuid.UUID(int=5)),
            ("integer[]", [1, None, 3]),
            ("text[]", ["a,b", 'c"d', None]),
        ]:
            with self.subTest(type=type_name):
                cursor.execute(f"SELECT %s::{type_name}, NULL::{type_name}", [value])
                self.assertEqual(cursor.fetchone(), (value, None))
        cursor.execute("SELECT %s::bytea, %s::jsonb", [b"\x00\xff", psycopg2.extras.Json({"a": [1]})])
        data, document = cursor.fetchone()
        self.assertEqual((bytes(data), document), (b"\x00\xff", {"a": [1]}))

    def test_named_cursors_read_on_and_go_back(self):
        connection = self.connect()
        with connection.cursor("numbers", scrollable=True) as cursor:
            cursor.itersize = 7
            cursor.execute("SELECT g FROM generate_series(1, %s) g", [20])
            self.assertEqual([n for (n,) in cursor], list(range(1, 21)))
            cursor.scroll(-5)
            self.assertEqual(cursor.fetchmany(2), [(17,), (18,)])
        connection.commit()
        with connection.cursor("kept", withhold=True) as cursor:
            cursor.execute("SELECT 1")
            connection.commit()
            self.assertEqual(cursor.fetchall(), [(1,)])

    def test_transactions_and_error_codes(self):
        connection = self.connect()
        cursor = connection.cursor()
        cursor.execute("CREATE TABLE t (id serial PRIMARY KEY, n text UNIQUE)")
        psycopg2.extras.execute_values(cursor, "INSERT INTO t (n) VALUES %s", [(f"n{n}",) for n in range(20)])
        connection.commit()
        with self.assertRaises(psycopg2.errors.UniqueViolation) as caught:
            cursor.execute("INSERT INTO t (n) VALUES ('n3')")
        self.assertEqual((caught.exception.pgcode, caught.exception.diag.constraint_name), ("23505", "t_n_key"))
        with self.assertRaises(psycopg2.errors.InFailedSqlTransaction):
            cursor.execute("SELECT 1")
        connection.rollback()
        cursor.execute("SELECT n FROM t WHERE id IN %s ORDER BY id", [(4, 5)])
        self.assertEqual(cursor.fetchall(), [("n3",), ("n4",)])
        connection.commit()

    def test_copy_in_and_out(self):
        cursor = self.connect(autocommit=True).cursor()
        cursor.execute("CREATE TABLE c (id int PRIMARY KEY, n text)")
        cursor.copy_from(io.StringIO("1\ta\n2\t\\N\n"), "c")
        out = io.StringIO()
        cursor.copy_expert("COPY c TO STDOUT (FORMAT csv, HEADER)", out)
        self.assertEqual(out.getvalue(), "id,n\n1,a\n2,\n")

    def test_notifications_reach_an_idle_connection(self):
        listener, other = self.connect(autocommit=True), self.connect(autocommit=True)
        listener.cursor().execute("LISTEN news")
        other.cursor().execute("NOTIFY news, 'hello'")
        while not listener.notifies:
            self.assertNotEqual(select.select([listener], [], [], 10)[0], [])
            listener.poll()
        (received,) = listener.notifies
        self.assertEqual((received.channel, received.payload), ("news", "hello"))
        self.assertEqual(received.pid, other.get_backend_pid())

    def test_a_running_statement_is_cancelled(self):
        connection = self.connect(autocommit=True)
        cursor = connection.cursor()
        timer = threading.Timer(0.5, connection.cancel)
        timer.start()
        with self.assertRaises(psycopg2.errors.QueryCanceled):
            cursor.execute(
                "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r WHERE n < 0"
            )
        timer.join()
        cursor.execute("SELECT 1")
        self.assertEqual(cursor.fetchone(), (1,))

    def test_the_login_is_bound_to_the_channel_and_a_wrong_password_is_refused(self):
        connection = self.connect(channel_binding="require")
        self.assertTrue(connection.info.ssl_in_use)
        for wrong in [{"password": "wrong"}, {"sslmode": "disable"}]:
            with self.subTest(wrong=wrong), self.assertRaises(psycopg2.OperationalError):
                self.connect(**wrong)


if __name__ == "__main__":
    unittest.main()
