from experiments.peak_sum_accuracy.main import main

main()
