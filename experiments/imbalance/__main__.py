from experiments.imbalance.main import main

main()
