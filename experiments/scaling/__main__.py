"""What a pattern costs against the size of everything."""

from experiments.scaling.main import main

if __name__ == "__main__":
    main()
