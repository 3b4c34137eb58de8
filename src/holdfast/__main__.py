"""`python -m holdfast`, which `accelerate launch --module holdfast` starts on several processes."""

from holdfast.cli import main

if __name__ == "__main__":
    main()
