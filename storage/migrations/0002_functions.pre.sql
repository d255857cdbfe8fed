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

-- Whether an effect of an event is sealed; for roles that may read them.
CREATE FUNCTION has_sealed_effect(p_run int, p_event uuid) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM sealed.effect AS x WHERE x.run_no = p_run AND x.event_id = p_event)
$$;

-- `begun`: effects may be recorded. A first attempt has some when the database lost an earlier claim, which does
-- not wait for the disk, and what that worker recorded came later. `p_sealed`: sealed ones are looked for too.
CREATE FUNCTION claim_commands(p_streams uuid[], p_versions int[], p_claims bigint[], p_known int[],
                               p_lease interval, p_sealed boolean)
RETURNS TABLE (stream uuid, version int, claim bigint, kind smallint, run_no int, status text, topic text,
               event_id uuid, parent uuid, attempt smallint, failures smallint, isolated_deaths smallint,
               begun boolean, history bytea[], source text, "row" text, pass_no int, pos bigint, asked bytea)
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
           g.failures, g.isolated_deaths,
           g.attempt > 1 OR g.due_at IS NOT NULL
           OR EXISTS (SELECT FROM effect AS x WHERE x.run_no = g.run_no AND x.event_id = g.pending)
           OR p_sealed AND has_sealed_effect(g.run_no, g.pending),
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
