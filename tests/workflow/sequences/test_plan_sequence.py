"""What a sequence would train and keep, by formula."""

import lorakit

RANK, WIDTH, LAYERS = 2, 32, 2


def test_parameters_are_those_of_the_formulas(sequences):
    adapter = LAYERS * 2 * RANK * (WIDTH + WIDTH)  # on q and v
    heads = [WIDTH * labels + labels for labels in (2, 2, 3)]
    for method, adapters in (("sequential", [1, 1, 1]), ("separate", [1, 2, 3]), ("o_lora", [1, 2, 3])):
        plan = lorakit.plan_sequence(sequences.recipe(method))
        assert [task.trained for task in plan.tasks] == [adapter] * 3
        assert [task.head for task in plan.tasks] == heads
        kept = [number * adapter + sum(heads[:place]) for place, number in enumerate(adapters, start=1)]
        assert [task.kept for task in plan.tasks] == kept
    plan = lorakit.plan_sequence(sequences.recipe("am_lora"))
    row = LAYERS * 2 * WIDTH  # of the attention, for each LoRA so far
    assert [task.trained for task in plan.tasks] == [adapter + number * row for number in (1, 2, 3)]
    assert [task.kept for task in plan.tasks] == [
        number * (adapter + row) + sum(heads[:number]) for number in (1, 2, 3)
    ]
    assert plan.labels == ["happy", "plain", "long", "short", "flat"]
    assert any("mood and tone have labels in common" in note and "happy, plain" in note for note in plan.notes)
    assert plan.steps == sum(task.steps for task in plan.tasks) == 9


def test_what_is_found_before_the_first_step_is_noted(sequences):
    plan = lorakit.plan_sequence(sequences.recipe("o_lora", ("mood", "size")), ["model.readout=auto"])
    assert sum("what the head reads is decided before the first step" in note for note in plan.notes) == 2
