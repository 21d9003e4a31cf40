// JDBC: its ordinary use, with a password and TLS. Run as
// `java -cp postgresql.jar JdbcTest.java jdbc:postgresql://… USER PASSWORD CA_FILE`.

import java.math.BigDecimal;
import java.sql.*;
import java.time.*;
import java.util.*;

public class JdbcTest {
    static int failures = 0;
    static Properties login = new Properties();

    interface Part {
        void run(Connection connection) throws Exception;
    }

    static void part(String url, String name, Part part) {
        try (Connection connection = DriverManager.getConnection(url, login)) {
            part.run(connection);
            System.out.println("ok " + name);
        } catch (Throwable error) {
            failures++;
            System.out.println("FAILED " + name + ": " + error);
        }
    }

    static void equal(Object found, Object expected) {
        if (!Objects.deepEquals(found, expected)) {
            throw new AssertionError("found " + found + ", expected " + expected);
        }
    }

    public static void main(String[] args) {
        String url = args[0];
        login.setProperty("user", args[1]);
        login.setProperty("password", args[2]);
        login.setProperty("sslmode", "verify-full");
        login.setProperty("sslrootcert", args[3]);
        // From the first execution on the server prepares, and the driver asks for binary values.
        String prepared = url + "?prepareThreshold=-1";
        part(url, "types", JdbcTest::types);
        part(prepared, "types, prepared and in binary", JdbcTest::types);
        part(url, "transactions, batches and errors", JdbcTest::transactions);
        part(url, "metadata", JdbcTest::metadata);
        part(url, "fetch size", JdbcTest::fetchSize);
        part(url, "copy", JdbcTest::copy);
        part(url, "cancel", JdbcTest::cancel);
        part(url, "what is refused at the door", connection -> refused(url));
        part(url, "notifications", connection -> notifications(url, connection));
        System.exit(failures == 0 ? 0 : 1);
    }

    static Object roundTrip(Connection c, String type, Object value, Class<?> as) throws SQLException {
        try (PreparedStatement s = c.prepareStatement("SELECT ?::" + type)) {
            s.setObject(1, value);
            try (ResultSet r = s.executeQuery()) {
                r.next();
                return as == null ? r.getObject(1) : r.getObject(1, as);
            }
        }
    }

    static void types(Connection c) throws SQLException {
        equal(roundTrip(c, "smallint", 7, null), 7);
        equal(roundTrip(c, "integer", -70000, null), -70000);
        equal(roundTrip(c, "bigint", 1L << 62, null), 1L << 62);
        equal(roundTrip(c, "real", 1.5f, null), 1.5f);
        equal(roundTrip(c, "double precision", -2.25, null), -2.25);
        equal(roundTrip(c, "numeric(12,3)", new BigDecimal("1234.567"), null), new BigDecimal("1234.567"));
        equal(roundTrip(c, "boolean", true, null), true);
        equal(roundTrip(c, "text", "söme 'text'", null), "söme 'text'");
        equal(roundTrip(c, "varchar(20)", "short", null), "short");
        equal(roundTrip(c, "bytea", new byte[] {0, -1}, null), new byte[] {0, -1});
        equal(roundTrip(c, "date", LocalDate.of(2024, 2, 29), LocalDate.class), LocalDate.of(2024, 2, 29));
        equal(roundTrip(c, "time", LocalTime.of(12, 34, 56), LocalTime.class), LocalTime.of(12, 34, 56));
        LocalDateTime moment = LocalDateTime.of(2024, 2, 29, 1, 2, 3, 4000);
        equal(roundTrip(c, "timestamp", moment, LocalDateTime.class), moment);
        OffsetDateTime there = moment.atOffset(ZoneOffset.UTC);
        equal(roundTrip(c, "timestamptz", there, OffsetDateTime.class), there);
        UUID id = new UUID(1, 2);
        equal(roundTrip(c, "uuid", id, null), id);
        Array array = c.createArrayOf("int4", new Integer[] {1, null, 3});
        equal(((Array) roundTrip(c, "int[]", array, null)).getArray(), new Integer[] {1, null, 3});
        Array texts = c.createArrayOf("text", new String[] {"a,b", "c\"d"});
        equal(((Array) roundTrip(c, "text[]", texts, null)).getArray(), new String[] {"a,b", "c\"d"});
    }

    static void transactions(Connection c) throws SQLException {
        try (Statement s = c.createStatement()) {
            s.execute("CREATE TABLE t (id serial PRIMARY KEY, n text UNIQUE)");
        }
        c.setAutoCommit(false);
        try (PreparedStatement s = c.prepareStatement("INSERT INTO t (n) VALUES (?)")) {
            for (int n = 0; n < 20; n++) {
                s.setString(1, "n" + n);
                s.addBatch();
            }
            equal(s.executeBatch().length, 20);
        }
        Savepoint before = c.setSavepoint();
        try (PreparedStatement s = c.prepareStatement("INSERT INTO t (n) VALUES (?)")) {
            s.setString(1, "n3");
            s.executeUpdate();
            throw new AssertionError("it was taken");
        } catch (SQLException error) {
            equal(error.getSQLState(), "23505");
        }
        c.rollback(before);
        String[] columns = {"id"};
        try (PreparedStatement s = c.prepareStatement("INSERT INTO t (n) VALUES (?)", columns)) {
            s.setString(1, "new");
            s.executeUpdate();
            ResultSet keys = s.getGeneratedKeys();
            keys.next();
            if (keys.getInt(1) < 21) throw new AssertionError("key " + keys.getInt(1));
        }
        c.commit();
        try (Statement s = c.createStatement(); ResultSet r = s.executeQuery("SELECT count(*) FROM t")) {
            r.next();
            equal(r.getLong(1), 21L);
        }
        c.commit();
    }

    static List<String> strings(ResultSet r, String... columns) throws SQLException {
        List<String> rows = new ArrayList<>();
        while (r.next()) {
            List<String> row = new ArrayList<>();
            for (String column : columns) row.add(r.getString(column));
            rows.add(String.join("|", row));
        }
        return rows;
    }

    static void metadata(Connection c) throws SQLException {
        try (Statement s = c.createStatement()) {
            s.execute("CREATE TABLE parent (a int, b int, name varchar(10) NOT NULL, PRIMARY KEY (a, b))");
            s.execute("CREATE TABLE child (id bigserial PRIMARY KEY, a int, b int, price numeric(8,2) DEFAULT 1,"
                + " FOREIGN KEY (a, b) REFERENCES parent ON DELETE CASCADE)");
            s.execute("CREATE INDEX child_price ON child (price DESC)");
        }
        DatabaseMetaData m = c.getMetaData();
        equal(strings(m.getTables(null, "public", "%ent", new String[] {"TABLE"}), "TABLE_NAME"), List.of("parent"));
        equal(strings(m.getColumns(null, "public", "child", "%"), "COLUMN_NAME", "TYPE_NAME", "COLUMN_SIZE", "IS_AUTOINCREMENT"),
            List.of("id|bigserial|19|YES", "a|int4|10|NO", "b|int4|10|NO", "price|numeric|8|NO"));
        equal(strings(m.getPrimaryKeys(null, "public", "parent"), "COLUMN_NAME", "KEY_SEQ", "PK_NAME"),
            List.of("a|1|parent_pkey", "b|2|parent_pkey"));
        equal(strings(m.getImportedKeys(null, "public", "child"), "PKTABLE_NAME", "PKCOLUMN_NAME", "FKCOLUMN_NAME", "DELETE_RULE"),
            List.of("parent|a|a|0", "parent|b|b|0"));
        equal(strings(m.getIndexInfo(null, "public", "child", false, false), "INDEX_NAME", "COLUMN_NAME", "ASC_OR_DESC"),
            List.of("child_pkey|id|A", "child_price|price|D"));
        if (!strings(m.getSchemas(), "TABLE_SCHEM").contains("public")) throw new AssertionError("no public");
        if (strings(m.getTypeInfo(), "TYPE_NAME").isEmpty()) throw new AssertionError("no types");
        try (Statement s = c.createStatement(); ResultSet r = s.executeQuery("SELECT id, price FROM child")) {
            ResultSetMetaData columns = r.getMetaData();
            equal(columns.isAutoIncrement(1), true);
            equal(columns.getTableName(2), "child");
            equal(((org.postgresql.PGResultSetMetaData) columns).getBaseTableName(2), "child");
            equal(columns.getPrecision(2), 8);
            equal(columns.isNullable(1), ResultSetMetaData.columnNoNulls);
        }
    }

    static void fetchSize(Connection c) throws SQLException {
        c.setAutoCommit(false);
        try (Statement s = c.createStatement()) {
            s.setFetchSize(7);
            try (ResultSet r = s.executeQuery("SELECT n FROM generate_series(1, 100) AS n")) {
                int count = 0;
                while (r.next()) equal(r.getInt(1), ++count);
                equal(count, 100);
            }
        }
        c.commit();
    }

    static void copy(Connection c) throws Exception {
        try (Statement s = c.createStatement()) {
            s.execute("CREATE TABLE copied (id int PRIMARY KEY, n text)");
        }
        org.postgresql.copy.CopyManager manager = c.unwrap(org.postgresql.PGConnection.class).getCopyAPI();
        equal(manager.copyIn("COPY copied FROM STDIN", new java.io.StringReader("1\ta\n2\tb\n")), 2L);
        java.io.StringWriter out = new java.io.StringWriter();
        manager.copyOut("COPY copied TO STDOUT (FORMAT csv)", out);
        equal(out.toString(), "1,a\n2,b\n");
    }

    static void cancel(Connection c) throws SQLException {
        try (Statement s = c.createStatement()) {
            new java.util.Timer(true).schedule(new TimerTask() {
                public void run() {
                    try {
                        s.cancel();
                    } catch (SQLException error) {
                        throw new AssertionError(error);
                    }
                }
            }, 500);
            s.execute("WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r WHERE n < 0");
            throw new AssertionError("it ended by itself");
        } catch (SQLException error) {
            equal(error.getSQLState(), "57014");
        }
    }

    static void refused(String url) {
        for (String[] wrong : new String[][] {{"password", "wrong"}, {"sslmode", "disable"}}) {
            Properties other = new Properties();
            other.putAll(login);
            other.setProperty(wrong[0], wrong[1]);
            try (Connection connection = DriverManager.getConnection(url, other)) {
                throw new AssertionError("let in with " + String.join("=", wrong));
            } catch (SQLException error) {
                equal(error.getSQLState().substring(0, 2), "28");
            }
        }
    }

    static void notifications(String url, Connection listener) throws SQLException {
        try (Statement s = listener.createStatement()) {
            s.execute("LISTEN news");
        }
        try (Connection other = DriverManager.getConnection(url, login); Statement s = other.createStatement()) {
            s.execute("NOTIFY news, 'hello'");
        }
        org.postgresql.PGNotification[] received = listener.unwrap(org.postgresql.PGConnection.class).getNotifications(10_000);
        equal(received.length, 1);
        equal(received[0].getParameter(), "hello");
    }
}
