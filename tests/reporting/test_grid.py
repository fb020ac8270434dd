from lorakit.reporting.grid import layer_name, site_grid


def test_cells_keep_absent_pairs_absent_and_average_what_shares_a_cell():
    grid = site_grid([(1, "q", 1.0), (0, "res1", 0.5), (0, "q", 0.0), (1, "q", 0.0)])
    assert grid.layers == (0, 1)
    assert grid.values == {(0, "q"): 0.0, (0, "res1"): 0.5, (1, "q"): 0.5}


def test_roles_stand_as_a_block_computes_them_with_shortcuts_last():
    names = ["mid", "strange", "down", "q", "res1", "other", "v", "qkv", "up"]
    grid = site_grid((0, name, 1.0) for name in names)
    assert grid.roles == ("q", "v", "qkv", "up", "down", "other", "res1", "mid", "strange")


def test_means_go_over_the_cells_that_exist():
    grid = site_grid([(0, "q", 1.0), (0, "v", 0.0), (1, "q", 0.5)])
    assert (grid.by_layer(0), grid.by_layer(1)) == (0.5, 0.5)
    assert (grid.by_role("q"), grid.by_role("v")) == (0.75, 0.0)
    assert grid.overall() == 0.5
    assert site_grid([]).overall() == 0.0


def test_sites_outside_any_layer_are_called_model():
    assert (layer_name(-1), layer_name(3)) == ("model", "layer 3")
