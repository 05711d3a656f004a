from experiments.refine_reference.main import main

main()
