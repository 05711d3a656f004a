from experiments.benchmark_in_library.main import main

main()
