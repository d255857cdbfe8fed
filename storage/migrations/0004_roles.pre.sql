-- What each role may do. The roles themselves are made, with their passwords, by the operator's set-up.

CREATE FUNCTION create_run_partitions(p_run int) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    EXECUTE format('CREATE TABLE IF NOT EXISTS %I (LIKE event INCLUDING ALL)', 'event_' || p_run);
    EXECUTE format('ALTER TABLE event ATTACH PARTITION %I FOR VALUES IN (%s)', 'event_' || p_run, p_run);
    EXECUTE format('CREATE TABLE IF NOT EXISTS %I (LIKE effect INCLUDING ALL)', 'effect_' || p_run);
    EXECUTE format('ALTER TABLE effect ATTACH PARTITION %I FOR VALUES IN (%s)', 'effect_' || p_run, p_run);
END
$$;
REVOKE ALL ON FUNCTION create_run_partitions(int) FROM public;

REVOKE ALL ON SCHEMA sealed FROM public;
REVOKE CREATE ON SCHEMA public FROM public;

GRANT USAGE ON SCHEMA public TO mia_worker, mia_judge, mia_admit, mia_audit;
GRANT SELECT, INSERT, UPDATE ON run, question, rollout, batch, memory, memory_scope, memory_credit, generation, policy,
    artifact, topic, worker, label, dead_letter TO mia_worker, mia_judge, mia_admit;
GRANT SELECT, INSERT, UPDATE, DELETE ON active, outbox TO mia_worker, mia_judge, mia_admit;
-- The ledger is append-only for everyone who works with it.
GRANT SELECT, INSERT ON event, effect, memory_write, train_group TO mia_worker, mia_judge, mia_admit;
GRANT EXECUTE ON FUNCTION create_run_partitions(int) TO mia_admit;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO mia_audit;

GRANT USAGE ON SCHEMA sealed TO mia_worker, mia_judge, mia_admit, mia_audit;
-- Whoever meets a bad record may put its bytes away; whoever takes in a label may put it away.
GRANT INSERT ON sealed.dead_letter TO mia_worker, mia_judge, mia_admit;
GRANT INSERT ON sealed.label TO mia_admit;
GRANT SELECT ON sealed.label TO mia_judge;
GRANT SELECT, INSERT ON sealed.effect TO mia_judge;
GRANT SELECT ON ALL TABLES IN SCHEMA sealed TO mia_audit;
