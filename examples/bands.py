import fitq

job = fitq.FitJob(x=[0, 1, 2, 3, 4], y=[1.1, 2.9, 5.2, 6.8, 9.1], degree=1, optimizer="exact", covariance=True)
submission = fitq.Client().submit([job])
submission.wait()
results = submission.results()
print(fitq.predict(results, [5, 6], level=0.95).to_pylist())
print(fitq.p_values(results).to_pylist())
