//! Functions and triggers through restart and replay: a state that is made again from the log has them,
//! and what they did; replay itself does not run them again.

use springhead_sim::fixture::Fixture;

const DEFINITIONS: &str = "
    CREATE TABLE accounts (id int PRIMARY KEY, balance numeric(12,2) NOT NULL, changed int NOT NULL DEFAULT 0);
    CREATE TABLE journal (n bigserial PRIMARY KEY, account int, change numeric(12,2));
    CREATE FUNCTION fee(amount numeric) RETURNS numeric LANGUAGE sql IMMUTABLE RETURN round(amount / 100, 2);
    CREATE FUNCTION count_change() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN
        IF NEW.balance < 0 THEN RAISE EXCEPTION 'account % is empty', NEW.id USING ERRCODE = '23514'; END IF;
        NEW.changed := OLD.changed + 1;
        RETURN NEW;
      END $$;
    CREATE TRIGGER counted BEFORE UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION count_change();
    CREATE FUNCTION note() RETURNS trigger LANGUAGE sql AS
      'INSERT INTO journal (account, change) VALUES (NEW.id, NEW.balance - OLD.balance)';
    CREATE TRIGGER noted AFTER UPDATE OF balance ON accounts FOR EACH ROW
      WHEN (OLD.balance IS DISTINCT FROM NEW.balance) EXECUTE FUNCTION note();
    CREATE PROCEDURE move(source int, target int, amount numeric) LANGUAGE sql BEGIN ATOMIC
      UPDATE accounts SET balance = balance - amount - fee(amount) WHERE id = source;
      UPDATE accounts SET balance = balance + amount WHERE id = target;
    END;
    INSERT INTO accounts VALUES (1, 100), (2, 0);
    CALL move(1, 2, 50);";

fn look(fixture: &Fixture) -> Vec<Vec<Option<String>>> {
    fixture.sql(
        "SELECT id::text, balance::text, changed::text FROM accounts
         UNION ALL SELECT 'j' || n, account::text, change::text FROM journal ORDER BY 1",
    )
}

fn texts(rows: &[Vec<Option<String>>]) -> Vec<String> {
    rows.iter()
        .map(|row| {
            row.iter()
                .map(|value| value.as_deref().unwrap_or("~"))
                .collect::<Vec<_>>()
                .join("|")
        })
        .collect()
}

#[test]
fn g1_functions_and_triggers_survive_restart_and_replay_without_running_twice() {
    let mut fixture = Fixture::started();
    fixture.sql(DEFINITIONS);
    let after_one = ["1|49.50|1", "2|50.00|1", "j1|1|-50.50", "j2|2|50.00"];
    assert_eq!(texts(&look(&fixture)), after_one);

    // A failure in a trigger undoes the whole statement, its neighbours in the procedure included.
    let refused = fixture.pg().query("CALL move(1, 2, 1000)");
    let code = refused.expect_err("the account is empty");
    assert_eq!(code.code(), Some("23514"));
    assert_eq!(texts(&look(&fixture)), after_one);

    fixture.kill();
    fixture.start();
    assert_eq!(texts(&look(&fixture)), after_one);

    fixture.stop();
    let tenants = std::fs::read_dir(fixture.data_dir().join("tenants")).expect("tenants");
    for tenant in tenants {
        let directory = tenant.expect("an entry").path();
        for name in ["state.db", "state.db-wal", "state.db-shm"] {
            let file = directory.join(name);
            if file.exists() {
                std::fs::remove_file(&file).expect("a state file goes");
            }
        }
    }
    fixture.start();
    assert_eq!(texts(&look(&fixture)), after_one, "made again from the log");
    fixture.sql("CALL move(2, 1, 10)");
    let rows = texts(&look(&fixture));
    assert_eq!(rows[..2], ["1|59.50|2", "2|39.90|2"]);
    assert_eq!(rows.len(), 6, "{rows:?}");

    let known = fixture.sql(
        "SELECT type || ' ' || name FROM springhead.definitions
         WHERE type IN ('function', 'procedure', 'trigger') AND length(hash) = 32 ORDER BY 1",
    );
    assert_eq!(
        texts(&known),
        [
            "function count_change",
            "function fee",
            "function note",
            "procedure move",
            "trigger counted",
            "trigger noted"
        ]
    );
}

#[test]
fn g3_what_a_trigger_does_is_in_the_transaction_that_fired_it_on_the_feed() {
    let fixture = Fixture::started();
    fixture.sql(DEFINITIONS);
    let page = fixture
        .get("/cdc/poll?since_lsn=1&tx=group&limit=1000&operations=update,insert")
        .json();
    let transactions = page["transactions"].as_array().expect("transactions");
    let call = transactions.last().expect("the CALL");
    let changes: Vec<String> = call["changes"]
        .as_array()
        .expect("changes")
        .iter()
        .map(|change| {
            format!(
                "{} {}",
                change["operation"].as_str().unwrap_or("?"),
                change["collection"].as_str().unwrap_or("?")
            )
        })
        .collect();
    // The script is one transaction: what the CALL did is the end of it.
    assert_eq!(
        changes[changes.len().saturating_sub(4)..],
        [
            "UPDATE accounts",
            "INSERT journal",
            "UPDATE accounts",
            "INSERT journal"
        ]
    );
}
