from experiments.benchmark_out_of_library.main import main

main()
