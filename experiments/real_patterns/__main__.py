from experiments.real_patterns.main import main

main()
