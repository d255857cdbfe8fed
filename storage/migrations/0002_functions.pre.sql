-- The commit protocol: each function is one round trip and one transaction.
-- Lock order everywhere: rollout, question (rows of `active`, ids sorted), learner, run.

CREATE TYPE emitted AS (
    run_no int, stream uuid, seq int, id uuid, kind smallint, type text, topic text, body bytea,
    at timestamptz, cause uuid, correlation uuid, outbound boolean
);

-- The hash that an event adds to its stream's chain (mia_events.chain has the same in Python).
CREATE FUNCTION chain(prev bytea, stream uuid, seq int, id uuid, cause uuid, at timestamptz,
                      body_sha bytea, type text) RETURNS bytea
LANGUAGE sql STABLE AS $$
    SELECT sha256(prev || uuid_send(stream) || int4send(seq) || uuid_send(id)
        || uuid_send(coalesce(cause, '00000000-0000-0000-0000-000000000000'::uuid))
        || timestamptz_send(at) || body_sha || convert_to(type, 'UTF8'))
$$;

-- Name-based UUIDs for what the database itself appends (version 8: custom, SHA-256 of owner and name).
CREATE FUNCTION named_id(owner uuid, name text) RETURNS uuid
LANGUAGE sql STABLE AS $$
    SELECT encode(set_byte(set_byte(d, 6, (get_byte(d, 6) & 15) | 128), 8, (get_byte(d, 8) & 63) | 128),
                  'hex')::uuid
    FROM (SELECT substr(sha256(uuid_send(owner) || convert_to(name, 'UTF8')), 1, 16) AS d) AS digest
$$;

CREATE FUNCTION claim_commands(p_streams uuid[], p_versions int[], p_claims bigint[], p_known int[],
                               p_lease interval)
RETURNS TABLE (stream uuid, version int, claim bigint, kind smallint, run_no int, status text, topic text,
               event_id uuid, parent uuid, attempt smallint, failures smallint, isolated_deaths smallint,
               released boolean, history bytea[], source text, "row" text, pass_no int, pos bigint, asked bytea)
LANGUAGE sql AS $$
    WITH locked AS (
        SELECT a.stream, w.claim, w.known
        FROM unnest(p_streams, p_versions, p_claims, p_known) AS w (stream, version, claim, known)
        JOIN active AS a ON a.stream = w.stream AND a.version = w.version
        JOIN run AS r ON r.run_no = a.run_no AND r.state IN ('running', 'closing')
        WHERE a.topic IS NOT NULL
          AND (a.due_at IS NULL OR a.due_at <= clock_timestamp())
          AND (a.claim IS NULL OR a.lease_until < clock_timestamp())
        -- In the order of every commit, and waiting: a row that is locked for a moment is not handled yet.
        ORDER BY a.kind, a.stream
        FOR UPDATE OF a
    ), granted AS (
        UPDATE active AS a
        SET claim = l.claim, attempt = a.attempt + 1, lease_until = clock_timestamp() + p_lease
        FROM locked AS l WHERE a.stream = l.stream
        RETURNING a.*, l.known
    )
    SELECT g.stream, g.version, g.claim, g.kind, g.run_no, g.status, g.topic, g.pending, g.parent, g.attempt,
           g.failures, g.isolated_deaths, g.due_at IS NOT NULL,
           ARRAY(SELECT e.body FROM event AS e
                 WHERE e.run_no = g.run_no AND e.stream = g.stream AND e.seq > g.known ORDER BY e.seq),
           q.source, q.row, q.pass_no, q.pos, o.body
    FROM granted AS g
    -- Whoever meets a stream for the first time needs its question too.
    LEFT JOIN question AS q ON q.id = g.parent AND g.known = 0
    LEFT JOIN event AS o ON o.run_no = q.run_no AND o.stream = q.id AND o.seq = 1
$$;

-- Append one event that the database itself decides on; returns the stream's new head.
CREATE FUNCTION append_event(p_run int, p_stream uuid, p_kind smallint, p_seq int, p_prev bytea, p_id uuid,
                             p_type text, p_topic text, p_body text, p_at timestamptz, p_cause uuid,
                             p_correlation uuid) RETURNS bytea
LANGUAGE plpgsql AS $$
DECLARE
    v_body bytea := convert_to(p_body, 'UTF8');
    v_sha bytea := sha256(v_body);
    v_hash bytea := chain(p_prev, p_stream, p_seq, p_id, p_cause, p_at, v_sha, p_type);
BEGIN
    INSERT INTO event (run_no, stream, seq, id, kind, type, topic, at, cause, correlation, body_sha, hash, body)
    VALUES (p_run, p_stream, p_seq, p_id, p_kind, p_type, p_topic, p_at, p_cause, p_correlation, v_sha, v_hash,
            v_body);
    RETURN v_hash;
END
$$;

-- Groups that no batch has used, with two graded rollouts or more.
CREATE FUNCTION trainable(p_run int) RETURNS TABLE (id uuid, pos bigint, batch int, policy text)
LANGUAGE sql STABLE AS $$
    SELECT q.id, q.pos, q.batch, q.policy FROM question AS q
    WHERE q.run_no = p_run AND q.closed
      AND NOT EXISTS (SELECT FROM train_group AS t WHERE t.question = q.id)
      AND (SELECT count(*) FROM rollout AS o
           WHERE o.question = q.id AND o.outcome IN ('correct', 'incorrect', 'not_attempted')) > 1
$$;

-- Questions that are answered and have nothing left to do but wait for a label.
CREATE FUNCTION without_label(p_run int) RETURNS TABLE (id uuid)
LANGUAGE sql STABLE AS $$
    SELECT q.id FROM question AS q
    WHERE q.run_no = p_run AND q.answered_at IS NOT NULL AND NOT q.closed
      AND NOT EXISTS (SELECT FROM label AS l WHERE l.question = q.id)
      AND NOT EXISTS (SELECT FROM rollout AS o JOIN active AS a ON a.stream = o.id
                      WHERE o.question = q.id AND a.status <> 'judging')
$$;

-- How many more questions may open: `mia_events.learning.governor.room`. Graded groups bound only live runs that train.
CREATE FUNCTION room(p_run run, p_graded bigint) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT least(p_run.max_in_flight, (p_run.staleness + 1) * p_run.batch_size - p_graded)
        - (p_run.opened - p_run.ended)
        + CASE WHEN p_run.label_wait IS NULL THEN 0 ELSE (SELECT count(*) FROM without_label(p_run.run_no)) END
$$;

-- Close, open, end and release what is due in a run. Locks the learner, then the run.
CREATE FUNCTION advance_run(p_run int, p_at timestamptz) RETURNS SETOF emitted
LANGUAGE plpgsql AS $$
DECLARE
    v_learner active;
    v_run run;
    v_batch batch;
    v_question record;
    v_free bigint;
    v_reserve bigint;
    v_body text;
    v_head bytea;
    v_id uuid;
    v_type text;
    v_reason text;
    v_ready boolean := false;
    v_graded bigint;
BEGIN
    SELECT a.* INTO v_learner FROM active AS a WHERE a.run_no = p_run AND a.kind = 4 FOR UPDATE;
    SELECT r.* INTO v_run FROM run AS r WHERE r.run_no = p_run FOR UPDATE;
    IF v_run.state NOT IN ('running', 'closing') THEN
        RETURN;
    END IF;
    IF v_run.mode = 'batch' THEN
        IF v_run.state = 'closing' AND NOT EXISTS (
            SELECT FROM batch AS b WHERE b.run_no = p_run AND b.number = v_run.sealed_gen)
        THEN
            -- A batch that never received a question holds nothing back once none can come.
            SELECT coalesce(min(b.number), v_run.sealed_gen) INTO v_run.sealed_gen
            FROM batch AS b WHERE b.run_no = p_run AND b.number > v_run.sealed_gen;
        END IF;
        FOR v_batch IN
            SELECT b.* FROM batch AS b WHERE b.run_no = p_run AND b.status <> 'ended' ORDER BY b.number FOR UPDATE
        LOOP
            v_reason := CASE
                WHEN v_batch.status NOT IN ('filling', 'open') THEN NULL
                WHEN v_batch.size >= v_run.batch_size THEN 'full'
                WHEN v_run.state = 'closing' THEN 'run_closed'
                WHEN v_batch.opened_at + v_run.batch_deadline <= p_at THEN 'deadline'
                WHEN v_batch.first_at + v_run.batch_linger <= p_at THEN 'linger'
            END;
            IF v_reason IS NOT NULL THEN
                v_batch.status := CASE v_batch.status WHEN 'filling' THEN 'full' ELSE 'running' END;
                v_batch.version := v_batch.version + 1;
                v_body := format('{"type":"batch.closed","number":%s,"size":%s,"reason":"%s"}',
                                 v_batch.number, v_batch.size, v_reason);
                v_batch.head := append_event(p_run, v_batch.id, 3::smallint, v_batch.version, v_batch.head,
                    named_id(v_batch.id, 'closed'), 'batch.closed', NULL, v_body, p_at, NULL, NULL);
                IF v_reason <> 'full' AND v_run.state = 'running' THEN
                    -- An early close: the next batch starts at the next position.
                    SELECT greatest(v_run.next_pos, coalesce(max(q.pos) + 1, 0)) INTO v_run.base_pos
                    FROM question AS q WHERE q.run_no = p_run;
                    SELECT max(b.number) + 1 INTO v_run.base_batch FROM batch AS b WHERE b.run_no = p_run;
                END IF;
            END IF;
            IF v_batch.status IN ('filling', 'full') AND v_run.sealed_gen >= v_batch.number - v_run.lag THEN
                v_batch.status := CASE v_batch.status WHEN 'filling' THEN 'open' ELSE 'running' END;
                v_batch.version := v_batch.version + 1;
                v_batch.generation := greatest(0, v_batch.number - v_run.lag);
                -- The version of its generation, not the newest: the batch may come late to it.
                SELECT coalesce((
                    SELECT g.policy FROM generation AS g
                    WHERE g.run_no = p_run AND g.number <= v_batch.generation ORDER BY g.number DESC LIMIT 1
                ), 'base') INTO v_batch.policy;
                v_batch.opened_at := p_at;
                v_body := format('{"type":"batch.opened","number":%s,"generation":%s,"policy":%s}',
                                 v_batch.number, v_batch.generation, to_json(v_batch.policy));
                v_batch.head := append_event(p_run, v_batch.id, 3::smallint, v_batch.version, v_batch.head,
                    named_id(v_batch.id, 'opened'), 'batch.opened', NULL, v_body, p_at, NULL, NULL);
            END IF;
            IF v_batch.status = 'running' AND v_batch.ended >= v_batch.size THEN
                v_batch.status := 'ended';
                v_batch.version := v_batch.version + 1;
                v_body := format('{"type":"batch.ended","number":%s}', v_batch.number);
                v_batch.head := append_event(p_run, v_batch.id, 3::smallint, v_batch.version, v_batch.head,
                    named_id(v_batch.id, 'ended'), 'batch.ended', NULL, v_body, p_at, NULL, NULL);
            END IF;
            UPDATE batch AS b SET status = v_batch.status, version = v_batch.version, head = v_batch.head,
                generation = v_batch.generation, policy = v_batch.policy, opened_at = v_batch.opened_at
            WHERE b.id = v_batch.id AND b.version <> v_batch.version;
        END LOOP;
        v_ready := EXISTS (
            SELECT FROM batch AS b
            WHERE b.run_no = p_run AND b.number = v_run.sealed_gen AND b.status = 'ended');
    ELSIF v_run.trains THEN
        -- As many graded groups as make a batch, or at the end what there is.
        SELECT count(*) INTO v_graded FROM trainable(p_run);
        v_ready := v_graded >= CASE WHEN v_run.state = 'closing' AND v_run.ended >= v_run.accepted THEN 1
                                    ELSE v_run.batch_size END;
    END IF;
    IF v_learner.status = 'idle' AND v_ready THEN
        v_id := named_id(v_learner.stream, format('batch_ready:%s', v_run.sealed_gen));
        v_body := format('{"type":"learner.batch_ready","number":%s}', v_run.sealed_gen);
        v_head := append_event(p_run, v_learner.stream, 4::smallint, v_learner.version + 1, v_learner.head, v_id,
            'learner.batch_ready', 'mia.consolidate', v_body, p_at, NULL, NULL);
        UPDATE active AS a SET version = a.version + 1, head = v_head, status = 'merging', pending = v_id,
            topic = 'mia.consolidate', claim = NULL, attempt = 0, failures = 0, isolated_deaths = 0,
            lease_until = NULL, due_at = NULL, sent_partition = NULL, sent_offset = NULL, updated_at = p_at
        WHERE a.stream = v_learner.stream;
        v_learner.status := 'merging';
        RETURN NEXT (p_run, v_learner.stream, v_learner.version + 1, v_id, 4::smallint, 'learner.batch_ready',
            'mia.consolidate', convert_to(v_body, 'UTF8'), p_at, NULL::uuid, NULL::uuid, false)::emitted;
    END IF;
    -- What somebody is waiting for goes first, and has an eighth more room than the rest.
    v_free := room(v_run, v_graded);
    v_reserve := greatest(1, v_run.max_in_flight / 8);
    IF v_free + v_reserve > 0 THEN
        FOR v_question IN
            SELECT q.id, q.pos, q.batch, q.head, q.opened_event, q.urgent, coalesce(b.generation, 0) AS generation,
                   coalesce(b.policy, v_run.policy) AS policy,
                   least(p_at + v_run.question_deadline, b.opened_at + v_run.batch_deadline) AS deadline
            FROM question AS q LEFT JOIN batch AS b ON b.run_no = p_run AND b.number = q.batch
            WHERE q.run_no = p_run AND q.status = 'waiting'
              AND (v_run.mode = 'live' OR b.generation IS NOT NULL)
            ORDER BY q.urgent DESC, q.pos LIMIT v_free + v_reserve FOR UPDATE OF q SKIP LOCKED
        LOOP
            EXIT WHEN v_free <= 0 AND NOT v_question.urgent;
            v_free := v_free - 1;
            v_body := format('{"type":"question.opened","position":%s,"batch":%s,"generation":%s,"policy":%s}',
                v_question.pos, coalesce(v_question.batch::text, 'null'), v_question.generation,
                to_json(v_question.policy));
            v_head := append_event(p_run, v_question.id, 2::smallint, 2, v_question.head, v_question.opened_event,
                'question.opened', 'mia.plan', v_body, p_at, NULL, v_question.id);
            INSERT INTO active (stream, run_no, kind, status, version, head, pending, topic, parent, deadline,
                                updated_at)
            VALUES (v_question.id, p_run, 2, 'opening', 2, v_head, v_question.opened_event, 'mia.plan',
                    v_question.id, v_question.deadline, p_at);
            UPDATE question AS q SET status = 'open', opened_at = p_at, policy = v_question.policy
            WHERE q.id = v_question.id;
            v_run.opened := v_run.opened + 1;
            RETURN NEXT (p_run, v_question.id, 2, v_question.opened_event, 2::smallint, 'question.opened',
                'mia.plan', convert_to(v_body, 'UTF8'), p_at, NULL::uuid, v_question.id, false)::emitted;
        END LOOP;
    END IF;
    IF v_run.state = 'closing' AND v_run.ended >= v_run.accepted
        AND (v_learner.stream IS NULL OR v_learner.status = 'idle')
        AND NOT EXISTS (SELECT FROM batch AS b WHERE b.run_no = p_run AND b.number >= v_run.sealed_gen)
    THEN
        v_run.version := v_run.version + 1;
        v_run.head := append_event(p_run, v_run.id, 5::smallint, v_run.version, v_run.head,
            named_id(v_run.id, 'finished'), 'run.finished', NULL,
            format('{"type":"run.finished","questions":%s}', v_run.accepted), p_at, NULL, NULL);
        v_run.state := 'ended';
        v_run.finished_at := p_at;
        DELETE FROM active AS a WHERE a.stream = v_learner.stream;
    END IF;
    UPDATE run AS r SET opened = v_run.opened, sealed_gen = v_run.sealed_gen, base_pos = v_run.base_pos, base_batch = v_run.base_batch,
        version = v_run.version, head = v_run.head, state = v_run.state, finished_at = v_run.finished_at
    WHERE r.run_no = p_run
      AND (r.opened, r.sealed_gen, r.base_pos, r.base_batch, r.version) IS DISTINCT FROM
          (v_run.opened, v_run.sealed_gen, v_run.base_pos, v_run.base_batch, v_run.version);
END
$$;

CREATE FUNCTION accept_questions(p_run int, p_at timestamptz, p_ids uuid[], p_sources text[], p_rows text[],
                                 p_passes int[], p_urgent boolean[], p_positions bigint[], p_events uuid[], p_opened uuid[],
                                 p_bodies bytea[], OUT outcomes text[], OUT emissions emitted[])
LANGUAGE plpgsql AS $$
DECLARE
    v_run run;
    v_pos bigint;
    v_batch int;
    v_batch_id uuid;
    v_head bytea;
    v_sha bytea;
    v_body text;
BEGIN
    outcomes := '{}';
    PERFORM FROM active AS a WHERE a.run_no = p_run AND a.kind = 4 FOR UPDATE;
    SELECT r.* INTO v_run FROM run AS r WHERE r.run_no = p_run FOR UPDATE;
    FOR i IN 1 .. cardinality(p_ids) LOOP
        IF EXISTS (SELECT FROM question AS q WHERE q.id = p_ids[i]) THEN
            outcomes := outcomes || 'duplicate'::text;
            CONTINUE;
        END IF;
        IF v_run.state NOT IN ('running', 'paused') THEN
            outcomes := outcomes || 'closed'::text;
            CONTINUE;
        END IF;
        v_pos := coalesce(p_positions[i], v_run.next_pos);
        IF EXISTS (SELECT FROM question AS q WHERE q.run_no = p_run AND q.pos = v_pos) THEN
            outcomes := outcomes || 'position_taken'::text;
            CONTINUE;
        END IF;
        v_batch := NULL;
        IF v_run.mode = 'batch' THEN
            v_batch := v_run.base_batch + greatest(0, v_pos - v_run.base_pos) / v_run.batch_size;
            IF EXISTS (SELECT FROM batch AS b WHERE b.run_no = p_run AND b.number = v_batch
                       AND (b.status NOT IN ('filling', 'open') OR b.size >= v_run.batch_size)) THEN
                -- Its own batch has closed: it joins the first that has not.
                SELECT coalesce(min(c.number), 0) INTO v_batch FROM (
                    SELECT b.number FROM batch AS b WHERE b.run_no = p_run AND b.status IN ('filling', 'open')
                        AND b.size < v_run.batch_size
                    UNION ALL
                    SELECT max(b.number) + 1 FROM batch AS b WHERE b.run_no = p_run) AS c;
            END IF;
            SELECT b.id INTO v_batch_id FROM batch AS b WHERE b.run_no = p_run AND b.number = v_batch;
            IF v_batch_id IS NULL THEN
                v_batch_id := named_id(v_run.id, format('batch:%s', v_batch));
                v_body := format('{"type":"batch.started","number":%s}', v_batch);
                v_head := append_event(p_run, v_batch_id, 3::smallint, 1, decode(repeat('00', 32), 'hex'),
                    named_id(v_batch_id, 'started'), 'batch.started', NULL, v_body, p_at, NULL, NULL);
                INSERT INTO batch (id, run_no, number, status, version, head, first_at)
                VALUES (v_batch_id, p_run, v_batch, 'filling', 1, v_head, p_at);
            END IF;
            UPDATE batch AS b SET size = b.size + 1 WHERE b.id = v_batch_id;
        END IF;
        v_sha := sha256(p_bodies[i]);
        v_head := chain(decode(repeat('00', 32), 'hex'), p_ids[i], 1, p_events[i], NULL, p_at, v_sha,
                        'question.asked');
        INSERT INTO event (run_no, stream, seq, id, kind, type, at, correlation, body_sha, hash, body)
        VALUES (p_run, p_ids[i], 1, p_events[i], 2, 'question.asked', p_at, p_ids[i], v_sha, v_head, p_bodies[i]);
        INSERT INTO question (id, run_no, pos, batch, source, row, pass_no, urgent, head, opened_event, accepted_at)
        VALUES (p_ids[i], p_run, v_pos, v_batch, p_sources[i], p_rows[i], p_passes[i], p_urgent[i], v_head,
                p_opened[i], p_at);
        v_run.next_pos := greatest(v_run.next_pos, v_pos + 1);
        v_run.accepted := v_run.accepted + 1;
        outcomes := outcomes || 'accepted'::text;
    END LOOP;
    UPDATE run AS r SET next_pos = v_run.next_pos, accepted = v_run.accepted WHERE r.run_no = p_run;
    SELECT coalesce(array_agg(e), '{}') INTO emissions FROM advance_run(p_run, p_at) AS e;
END
$$;

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
        FROM unnest(p_seals) AS s
        WHERE p.run_no = s.run_no AND s.unit = ANY (v_ok)
          AND (p.name = s.candidate OR p.name = s.served AND s.serves NOT IN (s.served, s.candidate));
        -- An operator's order that came in between stands.
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
