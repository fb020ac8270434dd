"""The only floor that puts the parts together: recipe -> model -> loop -> run. One module a command."""
