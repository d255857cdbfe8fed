-- Group commit: many steps in one round trip and one transaction, in the lock order of the functions before.

-- Whether a sealed effect is recorded with this very result (compared without reading it out).
CREATE FUNCTION sealed_effect_is(p_run int, p_event uuid, p_ordinal int, p_result bytea) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM sealed.effect AS x WHERE x.run_no = p_run AND x.event_id = p_event
                   AND x.ordinal = p_ordinal AND x.result = p_result)
$$;

-- What a group commit is made of; `unit` numbers the step that a row belongs to.
CREATE TYPE effect_input AS (
    unit int, run_no int, event_id uuid, ordinal int, kind text, policy text, request_sha bytea, result bytea,
    sealed boolean, alone boolean
);
CREATE TYPE entry_input AS (
    unit int, guard smallint, stream uuid, kind smallint, run_no int, id uuid, type text, body bytea, status text,
    topic text, outbox text, phase smallint, version int, claim bigint, attempt smallint, whens text[], parent uuid,
    cause uuid, number int, outcome text, next_claim bigint
);
CREATE TYPE question_input AS (
    unit int, id uuid, fanned int, candidate int, official int, answer text, status text, reason text, grade text
);
CREATE TYPE join_input AS (owner uuid, name text, id uuid);
-- `serves` is set where a guard decided on `candidate` while `served` served; `state` is what it became.
CREATE TYPE seal_input AS (
    unit int, run_no int, generation int, served text, serves text, candidate text, state text
);

-- Apply many units at once. A unit is effects and, mostly, a step: entries of which the first, its own
-- stream's, guards the rest. `lost` and `conflicts` name the units that were not applied; `applied` and
-- `seqs` the entries that were.
CREATE FUNCTION commit_steps(
    p_at timestamptz, p_lease interval, p_locks uuid[], p_effects effect_input[], p_entries entry_input[],
    p_questions question_input[], p_joins join_input[], p_seals seal_input[],
    OUT lost int[], OUT conflicts int[], OUT applied int[], OUT seqs int[], OUT emissions emitted[]
) LANGUAGE plpgsql AS $$
DECLARE
    v_ok int[] := '{}';
    v_due bigint;
    v_inserted bigint;
    v_any_open boolean;
    v_any_sealed boolean;
    v_any_ended boolean;
    v_any_outbox boolean;
    v_any_created boolean;
    v_any_phase boolean;
    v_questions uuid[] := '{}';
    v_runs int[] := '{}';
    v_more emitted[];
    v_run int;
BEGIN
    lost := '{}'; conflicts := '{}'; applied := '{}'; seqs := '{}'; emissions := '{}';

    IF cardinality(p_entries) > 0 THEN
        PERFORM FROM active AS a WHERE a.stream = ANY (p_locks) ORDER BY a.kind, a.stream FOR UPDATE;
        SELECT coalesce(array_agg(e.unit) FILTER (WHERE e.guard < 2 AND a.stream IS NOT NULL), '{}'),
               coalesce(array_agg(e.unit) FILTER (WHERE e.guard < 2 AND a.stream IS NULL), '{}'),
               bool_or(e.status = 'ended'), bool_or(e.outbox IS NOT NULL), bool_or(e.number IS NOT NULL),
               bool_or(e.phase > 0)
        INTO v_ok, lost, v_any_ended, v_any_outbox, v_any_created, v_any_phase
        FROM unnest(p_entries) AS e
        LEFT JOIN active AS a ON e.guard < 2 AND a.stream = e.stream AND a.version = e.version
            AND (e.guard = 1 OR a.claim = e.claim);
    END IF;

    IF cardinality(p_effects) > 0 THEN
        SELECT bool_or(NOT f.sealed), bool_or(f.sealed), count(*) FILTER (WHERE f.alone OR f.unit = ANY (v_ok))
        INTO v_any_open, v_any_sealed, v_due
        FROM unnest(p_effects) AS f;
        v_inserted := v_due;
        IF v_any_open THEN
            INSERT INTO effect (run_no, event_id, ordinal, kind, policy, request_sha, result, at)
            SELECT f.run_no, f.event_id, f.ordinal, f.kind, f.policy, f.request_sha, f.result, p_at
            FROM unnest(p_effects) AS f
            WHERE NOT f.sealed AND (f.alone OR f.unit = ANY (v_ok))
            ON CONFLICT DO NOTHING;
            GET DIAGNOSTICS v_inserted = ROW_COUNT;
        END IF;
        IF v_any_sealed THEN
            INSERT INTO sealed.effect (run_no, event_id, ordinal, kind, policy, request_sha, result, at)
            SELECT f.run_no, f.event_id, f.ordinal, f.kind, f.policy, f.request_sha, f.result, p_at
            FROM unnest(p_effects) AS f
            WHERE f.sealed AND (f.alone OR f.unit = ANY (v_ok))
            ON CONFLICT DO NOTHING;
        END IF;
        IF v_inserted < v_due OR v_any_sealed THEN
            -- Somebody wrote first: a reply that is not the recorded one may lead to nothing.
            SELECT coalesce(array_agg(DISTINCT f.unit), '{}') INTO conflicts
            FROM unnest(p_effects) AS f
            WHERE (f.alone OR f.unit = ANY (v_ok))
              AND NOT EXISTS (SELECT FROM effect AS x WHERE NOT f.sealed AND x.run_no = f.run_no
                              AND x.event_id = f.event_id AND x.ordinal = f.ordinal AND x.result = f.result)
              AND NOT (f.sealed AND sealed_effect_is(f.run_no, f.event_id, f.ordinal, f.result));
            IF cardinality(conflicts) > 0 THEN
                SELECT coalesce(array_agg(u), '{}') INTO v_ok FROM unnest(v_ok) AS u WHERE u <> ALL (conflicts);
            END IF;
        END IF;
    END IF;

    IF cardinality(v_ok) = 0 THEN
        RETURN;
    END IF;

    WITH e AS MATERIALIZED (
        SELECT n.*, n.ordinality AS i FROM unnest(p_entries) WITH ORDINALITY AS n
        WHERE n.unit = ANY (v_ok)
    ), updated AS (
        UPDATE active AS a
        SET version = a.version + 1,
            head = chain(a.head, a.stream, a.version + 1, e.id, e.cause, p_at, sha256(e.body), e.type),
            status = e.status, pending = e.id, topic = e.topic, claim = e.next_claim,
            attempt = CASE WHEN e.next_claim IS NULL THEN 0 ELSE 1 END, failures = 0, isolated_deaths = 0,
            lease_until = CASE WHEN e.next_claim IS NOT NULL THEN clock_timestamp() + p_lease END,
            due_at = NULL, sent_partition = NULL, sent_offset = NULL, updated_at = p_at
        FROM e
        WHERE a.stream = e.stream
          AND (e.guard < 2 OR e.guard = 2 AND a.status = ANY (e.whens))
        RETURNING e.i, a.version, a.head
    ), created AS (
        INSERT INTO active (stream, run_no, kind, status, version, head, pending, topic, parent, updated_at)
        SELECT e.stream, e.run_no, e.kind, e.status, 1,
               chain(decode(repeat('00', 32), 'hex'), e.stream, 1, e.id, e.cause, p_at, sha256(e.body), e.type),
               e.id, e.topic, e.parent, p_at
        FROM e WHERE e.guard = 3
        ON CONFLICT DO NOTHING
        RETURNING stream, version, head
    ), done AS (
        SELECT u.i, u.version, u.head FROM updated AS u
        UNION ALL
        SELECT e.i, c.version, c.head FROM created AS c JOIN e ON e.stream = c.stream AND e.guard = 3
    ), logged AS (
        INSERT INTO event (run_no, stream, seq, id, kind, type, topic, at, cause, correlation, claim, attempt,
                           body_sha, hash, body)
        SELECT e.run_no, e.stream, d.version, e.id, e.kind, e.type, e.topic, p_at, e.cause, e.parent,
               CASE WHEN e.guard = 0 THEN e.claim END, CASE WHEN e.guard = 0 THEN e.attempt END,
               sha256(e.body), d.head, e.body
        FROM done AS d JOIN e ON e.i = d.i
    )
    SELECT array_agg(d.i), array_agg(d.version) INTO applied, seqs FROM done AS d;

    IF v_any_ended THEN
        DELETE FROM active AS a
        USING unnest(p_entries) WITH ORDINALITY AS e
        WHERE a.stream = e.stream AND e.status = 'ended' AND e.ordinality = ANY (applied);
    END IF;

    IF v_any_outbox THEN
        INSERT INTO outbox (event_id, run_no, stream, seq, topic, try_after)
        SELECT e.id, e.run_no, e.stream, d.seq, e.outbox, p_at + interval '2 seconds'
        FROM unnest(p_entries) WITH ORDINALITY AS e
        JOIN unnest(applied, seqs) AS d (i, seq) ON d.i = e.ordinality
        WHERE e.outbox IS NOT NULL;
    END IF;

    IF v_any_created THEN
        INSERT INTO rollout (id, question, run_no, number)
        SELECT e.stream, e.parent, e.run_no, e.number
        FROM unnest(p_entries) WITH ORDINALITY AS e
        WHERE e.number IS NOT NULL AND e.ordinality = ANY (applied);
    END IF;

    IF v_any_phase THEN
        WITH before AS (
            SELECT r.id, r.question, r.phase, e.phase AS reached, e.outcome
            FROM unnest(p_entries) WITH ORDINALITY AS e
            JOIN rollout AS r ON r.id = e.stream
            WHERE e.phase > r.phase AND e.ordinality = ANY (applied)
        ), moved AS (
            UPDATE rollout AS r SET phase = b.reached, outcome = b.outcome
            FROM before AS b WHERE r.id = b.id
            RETURNING b.question, (b.phase < 1)::int AS planned, (b.reached = 3)::int AS ended
        ), counted AS (
            UPDATE question AS q SET planned = q.planned + m.planned, ended = q.ended + m.ended
            FROM (SELECT question, sum(planned) AS planned, sum(ended) AS ended FROM moved GROUP BY question) AS m
            WHERE q.id = m.question
            RETURNING q.id
        )
        SELECT coalesce(array_agg(c.id), '{}') INTO v_questions FROM counted AS c;
    END IF;

    IF cardinality(p_questions) > 0 THEN
        UPDATE question AS q
        SET g = coalesce(u.fanned, q.g), candidate = coalesce(u.candidate, q.candidate),
            official = coalesce(u.official, q.official), answer = coalesce(u.answer, q.answer),
            status = coalesce(u.status, q.status), reason = coalesce(u.reason, q.reason),
            grade = coalesce(u.grade, q.grade),
            answered_at = CASE WHEN u.status IS NOT NULL THEN p_at ELSE q.answered_at END
        FROM unnest(p_questions) AS u
        WHERE q.id = u.id AND u.unit = ANY (v_ok);
        SELECT v_questions || coalesce(array_agg(u.id), '{}') INTO v_questions
        FROM unnest(p_questions) AS u WHERE u.unit = ANY (v_ok);
    END IF;

    IF cardinality(v_questions) > 0 THEN
        WITH due AS (
            SELECT a.stream, a.run_no, a.version, a.head, j.id,
                   CASE a.status WHEN 'planning' THEN 'question.planned' WHEN 'executing' THEN 'question.settling'
                       ELSE 'question.graded' END AS type,
                   CASE a.status WHEN 'planning' THEN 'routing' WHEN 'executing' THEN 'settling'
                       ELSE 'consolidating' END AS status,
                   CASE a.status WHEN 'grading' THEN 'mia.consolidate' ELSE 'mia.plan' END AS topic,
                   convert_to(CASE a.status
                       WHEN 'planning' THEN '{"type":"question.planned"}'
                       WHEN 'executing' THEN format('{"type":"question.settling","candidate":%s}', q.candidate)
                       ELSE '{"type":"question.graded"}' END, 'UTF8') AS body
            FROM question AS q
            JOIN active AS a ON a.stream = q.id
            LEFT JOIN unnest(p_joins) AS j ON j.owner = q.id
                AND j.name = CASE a.status WHEN 'planning' THEN 'planned' WHEN 'grading' THEN 'graded'
                    ELSE format('settling:%s', q.candidate) END
            WHERE q.id = ANY (v_questions)
              AND (a.status = 'planning' AND q.planned >= q.g
                   OR a.status = 'grading' AND q.ended >= q.g
                   OR a.status = 'executing' AND EXISTS (
                       SELECT FROM rollout AS r
                       WHERE r.question = q.id AND r.number = q.candidate AND r.phase >= 2))
        ), joined AS (
            UPDATE active AS a
            SET version = a.version + 1,
                head = chain(a.head, a.stream, a.version + 1, d.id, NULL, p_at, sha256(d.body), d.type),
                status = d.status, pending = d.id, topic = d.topic, claim = NULL, attempt = 0, failures = 0,
                isolated_deaths = 0, lease_until = NULL, due_at = NULL, sent_partition = NULL,
                sent_offset = NULL, updated_at = p_at
            FROM due AS d WHERE a.stream = d.stream
            RETURNING d.run_no, a.stream, a.version, d.id, d.type, d.topic, d.body, a.head
        ), logged AS (
            INSERT INTO event (run_no, stream, seq, id, kind, type, topic, at, correlation, body_sha, hash, body)
            SELECT j.run_no, j.stream, j.version, j.id, 2, j.type, j.topic, p_at, j.stream, sha256(j.body), j.head,
                   j.body
            FROM joined AS j
        )
        SELECT coalesce(array_agg((j.run_no, j.stream, j.version, j.id, 2::smallint, j.type, j.topic, j.body, p_at,
                                   NULL::uuid, j.stream, false)::emitted), '{}')
        INTO emissions FROM joined AS j;
    END IF;

    -- Questions that are over count for their batch and their run.
    IF v_any_ended THEN
        SELECT coalesce(array_agg(DISTINCT e.run_no), '{}') INTO v_runs
        FROM unnest(p_entries) WITH ORDINALITY AS e
        WHERE e.kind = 2 AND e.status = 'ended' AND e.ordinality = ANY (applied);
    END IF;
    IF cardinality(p_seals) > 0 THEN
        SELECT array_agg(DISTINCT r) INTO v_runs
        FROM (SELECT unnest(v_runs) AS r UNION ALL SELECT s.run_no FROM unnest(p_seals) AS s) AS both_kinds;
    END IF;
    IF cardinality(v_runs) > 0 THEN
        PERFORM FROM active AS a
        WHERE a.kind = 4 AND a.run_no = ANY (v_runs) ORDER BY a.stream FOR UPDATE;
        PERFORM FROM run AS r WHERE r.run_no = ANY (v_runs) ORDER BY r.run_no FOR UPDATE;
        WITH closed AS (
            UPDATE question AS q SET closed = true, ended_at = p_at
            FROM unnest(p_entries) WITH ORDINALITY AS e
            WHERE e.kind = 2 AND e.status = 'ended' AND e.ordinality = ANY (applied) AND q.id = e.stream
              AND NOT q.closed
            RETURNING q.run_no, q.batch
        ), batches AS (
            UPDATE batch AS b SET ended = b.ended + c.n
            FROM (SELECT run_no, batch, count(*) AS n FROM closed GROUP BY run_no, batch) AS c
            WHERE b.run_no = c.run_no AND b.number = c.batch
        )
        UPDATE run AS r SET ended = r.ended + c.n
        FROM (SELECT run_no, count(*) AS n FROM closed GROUP BY run_no) AS c
        WHERE r.run_no = c.run_no;
        UPDATE policy AS p
        SET state = CASE WHEN p.name = s.candidate THEN s.state ELSE 'rolled_back' END
        FROM unnest(p_seals) AS s JOIN run AS r ON r.run_no = s.run_no
        WHERE p.run_no = s.run_no AND s.unit = ANY (v_ok)
          AND (p.name = s.candidate OR p.name = s.served AND s.serves NOT IN (s.served, s.candidate))
          AND NOT (p.name = r.policy AND s.state = 'held_back' AND p.name = s.candidate);
        -- An operator's order that came in between stands, as it does above.
        UPDATE run AS r SET sealed_gen = s.generation,
            policy = CASE WHEN r.policy = s.served THEN s.serves ELSE r.policy END
        FROM unnest(p_seals) AS s
        WHERE r.run_no = s.run_no AND s.unit = ANY (v_ok);
        INSERT INTO generation (run_no, number, policy)
        SELECT s.run_no, s.generation, r.policy
        FROM unnest(p_seals) AS s JOIN run AS r ON r.run_no = s.run_no
        WHERE s.unit = ANY (v_ok);
        FOR v_run IN SELECT DISTINCT u FROM unnest(v_runs) AS u ORDER BY u LOOP
            SELECT coalesce(array_agg(x), '{}') INTO v_more FROM advance_run(v_run, p_at) AS x;
            emissions := emissions || v_more;
        END LOOP;
    END IF;
END
$$;
