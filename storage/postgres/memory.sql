-- name: lock_scope
-- Make the scope if it is new and lock it: generations are written one at a time.
INSERT INTO memory_scope (scope) VALUES ($1) ON CONFLICT (scope) DO UPDATE SET scope = excluded.scope
RETURNING generation

-- name: set_generation
-- The newest generation of a scope.
UPDATE memory_scope SET generation = greatest(generation, $2) WHERE scope = $1

-- name: current
-- The newest versions under some keys.
SELECT dedupe_key, version, text FROM memory
WHERE scope = $1 AND dedupe_key = ANY ($2) AND until_gen IS NULL

-- name: retire
-- The versions that end with a generation.
UPDATE memory SET until_gen = $3 WHERE scope = $1 AND dedupe_key = ANY ($2) AND until_gen IS NULL

-- name: insert
-- New versions.
INSERT INTO memory (id, version, scope, dedupe_key, outcome, text, question, plan, embedding, causes, from_gen, at)
SELECT m.id, m.version, $1, m.dedupe_key, m.outcome, m.text, m.question, m.plan, m.embedding::halfvec,
       string_to_array(m.causes, ',')::uuid[], $2, $3
FROM unnest($4::uuid[], $5::int[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[],
            $12::text[])
    AS m (id, version, dedupe_key, outcome, text, question, plan, embedding, causes)

-- name: credit
-- One credit per memory and question, the first that is written.
INSERT INTO memory_credit (memory, question, gen, won)
SELECT c.memory, c.question, $1, c.won FROM unnest($2::uuid[], $3::uuid[], $4::boolean[]) AS c (memory, question, won)
ON CONFLICT DO NOTHING

-- name: recall_exact
-- The best memories of one outcome as of a generation, by exact search; ties by key.
SELECT m.id, m.version, m.text, m.question, m.outcome, m.similarity, m.uses, m.wins,
       0.7 * greatest(0, m.similarity) + 0.3 * (m.wins + 1) / (m.uses + 1)::float8 AS score
FROM (
    SELECT x.id, x.version, x.text, x.question, x.outcome, x.dedupe_key,
           round((1 - (x.embedding <=> $2::halfvec))::numeric, 6)::float8 AS similarity,
           (SELECT count(*) FROM memory_credit AS c WHERE c.memory = x.id AND c.gen <= $3) AS uses,
           (SELECT count(*) FROM memory_credit AS c WHERE c.memory = x.id AND c.gen <= $3 AND c.won) AS wins
    FROM memory AS x
    WHERE x.scope = $1 AND x.outcome = $4 AND x.from_gen <= $3 AND (x.until_gen IS NULL OR x.until_gen > $3)
) AS m
WHERE m.similarity >= $6
ORDER BY score DESC, m.dedupe_key
LIMIT $5

-- name: recall_indexed
-- The same over the nearest 100 by the HNSW index.
SELECT m.id, m.version, m.text, m.question, m.outcome, m.similarity, m.uses, m.wins,
       0.7 * greatest(0, m.similarity) + 0.3 * (m.wins + 1) / (m.uses + 1)::float8 AS score
FROM (
    SELECT x.id, x.version, x.text, x.question, x.outcome, x.dedupe_key, x.similarity,
           (SELECT count(*) FROM memory_credit AS c WHERE c.memory = x.id AND c.gen <= $3) AS uses,
           (SELECT count(*) FROM memory_credit AS c WHERE c.memory = x.id AND c.gen <= $3 AND c.won) AS wins
    FROM (
        SELECT y.id, y.version, y.text, y.question, y.outcome, y.dedupe_key,
               1 - (y.embedding <=> $2::halfvec) AS similarity
        FROM memory AS y
        WHERE y.scope = $1 AND y.outcome = $4 AND y.from_gen <= $3 AND (y.until_gen IS NULL OR y.until_gen > $3)
        ORDER BY y.embedding <=> $2::halfvec LIMIT 100
    ) AS x
) AS m
WHERE m.similarity >= $6
ORDER BY score DESC, m.dedupe_key
LIMIT $5

-- name: newest
-- The newest generation of a scope.
SELECT generation FROM memory_scope WHERE scope = $1
