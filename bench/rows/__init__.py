"""The rows of the table: each module measures some of them with `rows(runs)`."""
