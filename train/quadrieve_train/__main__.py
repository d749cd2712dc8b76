"""So that `accelerate launch -m quadrieve_train …` works."""

from .cli import main

if __name__ == "__main__":
    main()
