"""kvgym's environment as a Gymnasium environment in Python and numpy: what kvgym is measured against.

It follows docs/simulator.md (profile seed, synthetic traffic; rules are cited by number) and gives the same bits as
kvgym. It is written to be fast for what it is: one environment is a table of integers, a row a field and a column a
slot; whatever the rules do to all slots at once is one numpy call on a row; the few sequences of a step to which
something special happens (evicted, finished, woken, admitted) are handled one by one; and what a step has already
computed is not computed again for the observation.
"""

from __future__ import annotations

from bisect import bisect_right

import gymnasium
import numpy as np

# Block types, phases.
SYSTEM, CONTEXT, GENERATION, REASONING, EPHEMERAL = range(5)
IDLE, PREFILL, DECODE, THINKING = range(4)

# Rows of the table. A slot is empty when its QP is 0; every row of an empty slot is 0.
# The first twelve stand in the order of the observation (10.1), so that one product makes most of it.
(
    QP,  # quarter pages of a private page: 4, 2 or 1
    COST,  # private cost; filled in for the observation
    RECLAIM,  # private cost and shared gain; filled in for the observation
    PROGRESS,  # always 0: the observation overwrites it by a quotient
    RATE,
    PRIORITY,
    EVICTION,  # 100 times the eviction value
    PHASE,
    HOTNESS,
    AGE,  # filled in for the observation
    PREFIX,
    SWAPPED,
    GPU,  # QP if resident, else 0
    PAGES,  # private pages
    BASE,  # pages of the prefix
    TOKENS,
    REMAINING,
    TYPE,
    RETAIN,  # W of 9.6
    LAST,
    TIMER,
    RUN,
    PAUSE,
    PREFIX8,  # 8 times the prefix, so that a sum with another field below 8 is a place in a histogram
) = range(24)
ROWS = 24
FEATURES = 12
GLOBALS = 16

PAGE = 128
EVICTION_PERCENT = (0, 25, 50, 90, 100)
RETAIN_TWENTIETHS = (20, 15, 10, 2, 0)
ONE = 1 << 24
SCORE_ONE = 1 << 20
HEAT = np.int32(63)  # of an access
MOST_TICKS = np.int32(5)

# The factors of the slot features. Dividing by a power of two is the same as multiplying; eviction values are quotients
# by the rules, and the products give the same bits.
FACTORS = np.array([1 / 4, 0, 0, 1, 1 / 128, 0, 0, 1 / 4, 0, 1 / 16, 1 / 8, 1], np.float32)
FACTORS[PRIORITY] = np.float32(1) / np.float32(100)
FACTORS[EVICTION] = np.float32(1) / np.float32(100)
FACTORS[HOTNESS] = np.float32(1) / np.float32(255)
assert all(np.float32(p) * FACTORS[EVICTION] == np.float32(p) / np.float32(100) for p in EVICTION_PERCENT)

# Random streams (section 2).
M64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
EPISODE, PREFIXES, INITIAL, ARRIVALS, REQUEST = range(1, 6)

# Traffic (section 4).
TENANTS = 4
DIFFICULTIES = ("easy", "medium", "hard")
BUDGET_PERMILLE = ((900, 1000), (750, 900), (650, 800))
LEVELS = ((0, 1), (1, 2), (2, 3))  # low, medium, high, bursty
BURSTY = 3
TABLES = (
    (33368, 55892, 63493, 65204, 65492, 65531, 65535),
    (31741, 54753, 63095, 65110, 65476, 65529, 65535),
    (29447, 53005, 62428, 64941, 65444, 65524, 65535),
    (39750, 59624, 64593, 65421, 65525, 65535, 65535),
)
BURST_TABLE = (14262, 36012, 52596, 61026, 64240, 65220, 65469)
BURST_CHANCE = 19661
TYPES = (CONTEXT,) * 56 + (GENERATION,) * 110 + (REASONING,) * 51 + (EPHEMERAL,) * 39
# fmt: off
PROMPT = (
    1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5, 5, 5, 6, 6, 6, 6, 6, 6,
    6, 7, 7, 7, 7, 7, 7, 8, 8, 8, 8, 8, 9, 9, 9, 9, 10, 10, 10, 11, 11, 11, 12, 12, 13, 14, 14, 15, 16, 18, 21, 24,
)
OUTPUT = (
    8, 10, 12, 13, 14, 15, 16, 17, 17, 18, 19, 20, 20, 21, 22, 22, 23, 24, 24, 25, 26, 26, 27, 28, 28, 29, 30, 31, 31, 32, 33, 34,
    34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 49, 50, 52, 53, 55, 57, 59, 61, 64, 66, 69, 73, 77, 82, 89, 96, 96, 96,
)
# fmt: on


def mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M64
    return z ^ (z >> 31)


def episode_key(seed: int, env: int, episode: int) -> int:
    k = mix((seed + GOLDEN) & M64)
    k = mix((k + (env + 1) * GOLDEN) & M64)
    return mix((k + (episode + 1) * GOLDEN) & M64)


class KVEnv(gymnasium.Env):
    """KV-cache management of one LLM server; an action is an operation (keep, evict, compress, swap) for every slot."""

    metadata = {"render_modes": []}

    def __init__(self, seed: int = 0, env: int = 0, slots: int = 64, steps: int = 15, max_wait: int = 5, difficulty: str = "all"):
        if slots % 16 or not 16 <= slots <= 256:
            raise ValueError(f"slots: {slots}: allowed a multiple of 16 from 16 to 256")
        if not 1 <= steps <= 4096:
            raise ValueError(f"steps: {steps}: allowed 1 to 4096")
        if not 1 <= max_wait <= 4096:
            raise ValueError(f"max_wait: {max_wait}: allowed 1 to 4096")
        if difficulty != "all" and difficulty not in DIFFICULTIES:
            raise ValueError(f"difficulty: {difficulty}: allowed easy, medium, hard, all")
        self.slots, self.steps, self.max_wait = slots, steps, max_wait
        self.difficulty = None if difficulty == "all" else DIFFICULTIES.index(difficulty)
        self.queue_cap = slots // 2
        self.capacity = slots * 16
        self.token_norm = max(1, 500 * steps // 15)
        self.identity = (seed, env, -1)
        self.multiplier = [0] * (TENANTS + 1)

        width = GLOBALS + FEATURES * slots
        low, high = np.zeros(width, np.float32), np.ones(width, np.float32)
        low[5] = -1
        high[[0, 7, 12]] = 2, 4, 2
        high[GLOBALS + COST :: FEATURES] = high[GLOBALS + RECLAIM :: FEATURES] = 2
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        self.action_space = gymnasium.spaces.MultiDiscrete([4] * slots)

        self.factors = FACTORS.copy().reshape(FEATURES, 1)  # those of memory change with the budget
        self.divisors = np.empty(GLOBALS, np.float32)
        self.gains = np.zeros(8 * (TENANTS + 1), np.int32)  # shared gain by prefix and GPU
        self._bind(np.zeros((ROWS, slots), np.int32))

    def _bind(self, table: np.ndarray) -> None:
        """Names the rows of the table that steps use; a view costs as much as an operation."""
        self.table = table
        self.features = table[:FEATURES]
        self.qp, self.cost, self.reclaim = table[QP], table[COST], table[RECLAIM]
        self.rate, self.phase, self.hotness, self.age = table[RATE], table[PHASE], table[HOTNESS], table[AGE]
        self.swapped, self.gpu, self.pages = table[SWAPPED], table[GPU], table[PAGES]
        self.base, self.tokens, self.remaining = table[BASE], table[TOKENS], table[REMAINING]
        self.type, self.retain, self.last, self.timer, self.prefix8 = table[TYPE], table[RETAIN], table[LAST], table[TIMER], table[PREFIX8]

    # -- saving a state, for benchmarks and search

    _SAVED = (
        "identity", "key", "budget", "level", "prefix_pages", "system_slots", "t", "total_tokens", "failures", "latency",
        "headroom", "pressure", "risk", "score", "growth", "arrived", "admitted", "completed", "rejected",
        "evictions", "compressions", "swaps", "invalid", "reads",
    )  # fmt: skip

    def get_state(self) -> tuple:
        return self.table.copy(), tuple(self.queue), {name: getattr(self, name) for name in self._SAVED}

    def set_state(self, state: tuple) -> None:
        table, queue, values = state
        self.table[:] = table
        self.queue = list(queue)
        self.__dict__.update(values)
        self._set_budget()
        self._count_members()
        np.multiply(self.pages, self.gpu, out=self.cost)

    # -- drawing (sections 2 and 4)

    def _draw(self, purpose: int, step: int, index: int) -> int:
        return mix((self.key + (purpose << 56 | step << 24 | index) * GOLDEN) & M64)

    def _request(self, w: int) -> tuple[int, int, list[int]]:
        """4.5 and 7.3: what a request needs in private quarter pages, its prefix, and the column it becomes in a slot."""
        kind = TYPES[w & 255]
        prefix = 1 + (w >> 8 & 3) if w >> 10 & 3 else 0
        prompt = (PROMPT[w >> 12 & 63] - 1) * PAGE + 1 + (w >> 18 & 127)
        pages = (prompt + PAGE - 1) // PAGE
        base = self.prefix_pages[prefix]
        run = w >> 40 & 3
        column = [
            4, 0, 0, 0, 1 + (w >> 31 & 3), (w >> 33 & 127) * 101 >> 7, EVICTION_PERCENT[kind], PREFILL, 63, 0, prefix, 0,
            4, pages, base, base * PAGE + prompt, OUTPUT[w >> 25 & 63], kind, RETAIN_TWENTIETHS[kind], 0,
            2 + run if kind == CONTEXT else 0, run, w >> 42 & 3, 8 * prefix,
        ]  # fmt: skip
        return 4 * pages, prefix, column

    def _initial(self, i: int) -> tuple[int, int, list[int]]:
        """4.6, as _request."""
        w = self._draw(INITIAL, 0, i)
        if i < TENANTS:
            base = self.prefix_pages[i + 1]
            column = [
                4, 0, 0, 0, 0, (w >> 33 & 127) * 101 >> 7, 0, IDLE, w >> 54 & 255, 0, i + 1, 0,
                4, 0, base, base * PAGE, 0, SYSTEM, RETAIN_TWENTIETHS[SYSTEM], -(w >> 62 & 3), 0, 0, 0, 8 * (i + 1),
            ]  # fmt: skip
            return 0, i + 1, column
        _, prefix, column = self._request(w)
        kind, output = column[TYPE], column[REMAINING]
        done = (w >> 48 & 63) * output >> 6
        column[TOKENS] += done
        column[REMAINING] -= done
        column[PAGES] = (column[TOKENS] + PAGE - 1) // PAGE - column[BASE]
        column[HOTNESS] = w >> 54 & 255
        column[PHASE] = THINKING if kind == REASONING else DECODE
        if kind == CONTEXT and w >> 62 & 1:
            column[PHASE], column[TIMER], column[LAST] = IDLE, 1 + column[PAUSE], -(w >> 54 & 7)
        return 4 * column[PAGES], prefix, column

    def _count_arrivals(self, t: int) -> int:
        """4.7 and 4.8."""
        table = TABLES[self.level]
        if self.level == BURSTY and self._draw(ARRIVALS, t, 255) & 0xFFFF < BURST_CHANCE:
            table = BURST_TABLE
        n = 0
        for lane in range(self.slots // 16):
            if lane % 4 == 0:
                w = self._draw(ARRIVALS, t, lane // 4)
            n += bisect_right(table, w & 0xFFFF)
            w >>= 16
        return n

    # -- reset (section 3)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self.identity = (seed, 0, 0)
        else:
            name, env, episode = self.identity
            self.identity = (name, env, episode + 1)
        self.key = episode_key(*self.identity)
        w = self._draw(EPISODE, 0, 0)
        tier = (w & 0xFFFF) * 3 >> 16 if self.difficulty is None else self.difficulty
        lo, hi = BUDGET_PERMILLE[tier]
        self.budget = self.capacity * (lo + ((w >> 16 & 0xFFFF) * (hi - lo + 1) >> 16)) // 1000
        self._set_budget()
        self.level = LEVELS[tier][w >> 32 & 1]
        self.prefix_pages = (0, *(2 + (self._draw(PREFIXES, 0, p) & 7) for p in range(1, TENANTS + 1)))

        self.t = self.total_tokens = self.failures = self.latency = self.headroom = self.pressure = self.risk = self.score = 0
        self.arrived = self.admitted = self.completed = self.rejected = 0
        self.evictions = self.compressions = self.swaps = self.invalid = self.reads = 0
        self.queue = []  # (step of arrival, private quarter pages, prefix, column)

        used, columns = 0, []
        self.multiplier[:] = [0] * (TENANTS + 1)  # that of prefix 0 has no meaning, and no pages
        self.system_slots = [-1] * (TENANTS + 1)
        for i in range(TENANTS + (6 + ((w >> 33 & 0xFFFF) * 8 >> 16)) * self.slots // 64):
            private, prefix, column = self._initial(i)
            need = private + self.prefix_pages[prefix] * (4 - self.multiplier[prefix])
            if len(columns) == self.slots or used + need > self.budget:
                continue
            used += need
            self.multiplier[prefix] = 4
            if column[TYPE] == SYSTEM:
                self.system_slots[prefix] = len(columns)
            columns.append(column)
        self.table[:] = 0
        if columns:
            self.table[:, : len(columns)] = np.array(columns, np.int32).T
        self._count_members()
        self._arrive()
        self.growth = 0
        np.multiply(self.pages, self.gpu, out=self.cost)
        return self._observe(), {}

    def _set_budget(self) -> None:
        """What the observation divides by and multiplies with."""
        budget, steps, slots, queue = self.budget, self.steps, self.slots, self.queue_cap
        self.divisors[:] = (
            budget, self.capacity, steps, steps, queue, queue, self.max_wait, budget, slots, slots, slots, slots, budget, 16,
            self.token_norm, 1500,
        )  # fmt: skip
        self.factors[COST] = self.factors[RECLAIM] = np.float32(1) / np.float32(budget)

    # -- a step (sections 6, 7 and 9)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        waiting = len(self.queue)
        self._act(action)
        self._generate()
        self._count_members()
        if self.queue:
            self._admit()
            self._expire()
        self._arrive()
        self.growth = len(self.queue) - waiting
        np.multiply(self.pages, self.gpu, out=self.cost)
        reward = self._account()
        return self._observe(), reward, self.t == self.steps, False, {}

    def _act(self, ops: np.ndarray) -> None:
        """6.2. All operations are on different slots, so their order does not matter. Mostly few slots have one."""
        asked = ops.nonzero()[0]
        qp, gpu = self.qp, self.gpu
        for i, op in zip(asked.tolist(), ops[asked].tolist(), strict=True):
            if op == 1 and qp[i]:
                self._count_risk(self.table[:, i])
                self.table[:, i] = 0
                self.evictions += 1
            elif op == 2 and gpu[i] > 1:
                qp[i] >>= 1
                gpu[i] >>= 1
                self.compressions += 1
            elif op == 3 and gpu[i]:
                gpu[i] = 0
                self.swapped[i] = 1
                self.swaps += 1
            else:
                self.invalid += 1

    def _count_risk(self, column: np.ndarray) -> None:
        """9.8."""
        kind = column[TYPE]
        if kind == SYSTEM:
            self.risk += 30
        elif kind == CONTEXT:
            if column[PRIORITY] >= 50:
                self.risk += 15
        elif kind == GENERATION:
            tokens = int(column[TOKENS])
            if column[PRIORITY] >= 70 and tokens * 10 >= (tokens + int(column[REMAINING])) * 7:
                self.risk += 20

    def _generate(self) -> None:
        """6.4 to 6.10."""
        phase, timer, hotness, swapped = self.phase, self.timer, self.hotness, self.swapped
        tokens, remaining, pages, gpu = self.tokens, self.remaining, self.pages, self.gpu
        hotness -= hotness >> 2
        generating = phase >= DECODE
        prefill = phase == PREFILL

        rate = self.rate
        read = (swapped & generating).nonzero()[0]
        if read.size:
            rate = rate + swapped >> swapped
            for i in read.tolist():
                self._count_read(i)
        n = np.minimum(rate, remaining) * generating
        longer = tokens + n
        grown = (longer + (PAGE - 1) >> 7) - self.base
        growth = (grown - pages) * gpu
        stalled = None
        # Operations only free memory, so what was used before them is an upper bound, and mostly enough to know.
        if self.used + np.add.reduce(growth) > self.capacity:
            stalled = self._stalled(growth)
            n[stalled] = 0
            generating[stalled] = False
            longer[stalled] = tokens[stalled]
            grown[stalled] = pages[stalled]
        tokens[:] = longer
        pages[:] = grown
        remaining -= n
        self.total_tokens += int(np.add.reduce(n))
        self.last[generating] = self.t
        hotness += generating * HEAT

        # Timers run for idle sequences and for generating context sequences; others have none, or wait in prefill.
        ticking = timer > prefill * MOST_TICKS
        if stalled:
            ticking[stalled] = False
        timer -= ticking
        # Those whose timer ran out and those that have generated all: few, so one by one.
        done = []
        for i in (ticking & (timer == 0) | generating & (remaining == 0)).nonzero()[0].tolist():
            if phase[i] == IDLE:
                if remaining[i]:
                    phase[i], timer[i] = DECODE, 2 + self.table[RUN, i]
                else:
                    done.append(i)  # it lingered
            elif remaining[i] or self.type[i] >= REASONING:
                phase[i], timer[i] = IDLE, 1 + self.table[PAUSE, i]  # a tool call, or it lingers
            else:
                done.append(i)
        if done:
            self.completed += len(done)
            self.table[:, done] = 0
        for i in prefill.nonzero()[0].tolist():
            phase[i] = THINKING if self.type[i] == REASONING else DECODE

    def _stalled(self, growth: np.ndarray) -> list[int]:
        """6.6: the resident sequences that find no memory, slot after slot."""
        self._count_members()
        used, stalled = self.used, []
        for i in growth.nonzero()[0].tolist():
            g = int(growth[i])
            if used + g > self.capacity:
                stalled.append(i)
            else:
                used += g
        return stalled

    def _count_read(self, slot: int) -> None:
        """6.9."""
        self.reads += 1
        self.latency += 100 + min(200, 2 * int(self.pages[slot]) * int(self.qp[slot]))

    def _count_members(self) -> None:
        """Counts resident members by prefix and level, and from them the levels in use (1.7) and the used memory (1.8)."""
        self.counts = counts = np.bincount(self.prefix8 + self.gpu, minlength=8 * (TENANTS + 1)).tolist()
        used = int(self.pages @ self.gpu)
        for p in range(1, TENANTS + 1):
            k = 8 * p
            self.multiplier[p] = m = 4 if counts[k + 4] else 2 if counts[k + 2] else 1 if counts[k + 1] else 0
            used += m * self.prefix_pages[p]
        self.used = used

    def _admit(self) -> None:
        """7.2 to 7.4."""
        free = (self.qp == 0).nonzero()[0].tolist()
        free.reverse()
        waiting = []
        for request in self.queue:
            _, private, prefix, column = request
            need = private + self.prefix_pages[prefix] * (4 - self.multiplier[prefix])
            if not free or self.used + need > self.budget:
                waiting.append(request)
                continue
            slot = free.pop()
            self.table[:, slot] = column
            self.last[slot] = self.t
            self.used += need
            self.counts[8 * prefix + 4] += 1
            self.multiplier[prefix] = 4
            self.admitted += 1
            system = self.system_slots[prefix]
            if system >= 0 and self.qp[system] and self.type[system] == SYSTEM:
                if self.swapped[system]:
                    self._count_read(system)
                self.last[system] = self.t
                self.hotness[system] = min(255, self.hotness[system] + 63)
        self.queue = waiting

    def _expire(self) -> None:
        """7.5. The queue is in order of arrival."""
        limit = self.t - self.max_wait
        n = 0
        for request in self.queue:
            if request[0] > limit:
                break
            n += 1
        if n:
            self.failures += n
            del self.queue[:n]

    def _arrive(self) -> None:
        """7.6."""
        n = self._count_arrivals(self.t)
        room = self.queue_cap - len(self.queue)
        self.arrived += n
        if n > room:
            self.rejected += n - room
            self.failures += n - room
            n = room
        for k in range(n):
            self.queue.append((self.t, *self._request(self._draw(REQUEST, self.t, k))))

    def _observe(self) -> np.ndarray:
        """10.1 and 10.2, from private costs that are up to date."""
        budget, counts, queue, qp = self.budget, self.counts, self.queue, self.qp
        out = np.empty(GLOBALS + FEATURES * self.slots, np.float32)

        shared, self.gains[:] = 0, 0
        for p in range(1, TENANTS + 1):
            m = self.multiplier[p]
            if m:
                shared += m * self.prefix_pages[p]
                if counts[8 * p + m] == 1:
                    without = 1 if m > 1 and counts[8 * p + 1] else 0
                    if m == 4 and counts[8 * p + 2]:
                        without = 2
                    self.gains[8 * p + m] = self.prefix_pages[p] * (m - without)
        np.add(self.cost, self.gains.take(self.prefix8 + self.gpu), out=self.reclaim)
        np.minimum(self.t - self.last, 16, out=self.age)
        self.age *= qp != 0
        slots = out[GLOBALS:].reshape(self.slots, FEATURES)
        np.multiply(self.features, self.factors, out=slots.T, dtype=np.float32, casting="unsafe")
        np.divide(self.tokens, np.maximum(self.tokens + self.remaining, 1), out=slots[:, PROGRESS], dtype=np.float32, casting="unsafe")

        live = np.count_nonzero(qp)
        out[:GLOBALS] = (
            self.used,  # never above the capacity, which is below 2 * budget; so shared and all costs below, too
            budget,
            self.steps - self.t,
            self.pressure,
            len(queue),
            self.growth,
            self.t - queue[0][0] if queue else 0,
            min(sum([request[1] for request in queue]), 4 * budget),
            live,
            np.count_nonzero(self.phase >= DECODE),
            live - np.count_nonzero(qp == 4),
            np.count_nonzero(self.swapped),
            shared,
            min(self.failures, 16),
            min(self.total_tokens, self.token_norm),
            min(self.latency, 1500),
        )
        out[:GLOBALS] /= self.divisors
        return out

    def _retained(self) -> int:
        """R of 9.6, from private costs that are up to date."""
        total = int(self.retain @ self.cost)
        # Types count in the order of W, so a prefix's first one with a resident member is the highest.
        members = np.bincount((self.prefix8 + self.type) * (self.gpu != 0), minlength=8 * (TENANTS + 1)).tolist()
        for p in range(1, TENANTS + 1):
            m = self.multiplier[p]
            if m:
                kind = 0
                while not members[8 * p + kind]:
                    kind += 1
                total += RETAIN_TWENTIETHS[kind] * m * self.prefix_pages[p]
        return total

    def _account(self) -> float:
        """9.1 to 9.4: the reward."""
        used, budget, failures = self.used, self.budget, self.failures
        hundredfold = used * 100
        self.pressure += hundredfold > budget * 95
        self.headroom += 10 if hundredfold < budget * 80 else 5 if hundredfold < budget * 95 else 2 if used < budget else -5
        efficiency = ONE * 2 // 10
        if hundredfold >= budget * 85:
            efficiency = ONE // 10 if hundredfold < budget * 95 else 0 if used < budget else -efficiency
        total = (
            -40 * (min(15 * failures + 10 * max(0, failures - 2), 100) * ONE // 100)
            + 25 * (min(self.total_tokens, self.token_norm) * ONE // self.token_norm)
            + 18 * (4 * self.headroom * ONE // (100 * self.steps))
            + 7 * efficiency
            + 5 * (self._retained() * ONE // (20 * used) if used else 0)
            - 3 * (min(2 * self.latency, 3000) * ONE // 10000)
            - 2 * (self.risk * ONE // 100)
        )
        before, self.score = self.score, total // 1600
        return (self.score - before) / SCORE_ONE

    def action_mask(self) -> np.ndarray:
        """8.1: for every slot and operation, whether it would do something."""
        live = self.qp != 0
        return np.stack([np.ones(self.slots, bool), live, self.gpu > 1, self.gpu != 0], axis=1)
