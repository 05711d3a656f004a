from experiments.refine_batch.main import main

main()
